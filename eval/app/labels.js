// A text field that offers known labels.
import { h } from "vue";

export default {
  props: { value: String, labels: Array, name: String },
  emits: ["change", "enter"],
  render() {
    const list = this.$attrs.id + "-labels";
    return h("label", { class: "field" }, [
      h("span", this.name),
      h("input", {
        type: "text",
        value: this.value,
        list,
        autocomplete: "off",
        onInput: (event) => this.$emit("change", event.target.value),
        onKeydown: (event) => event.key === "Enter" && this.$emit("enter"),
      }),
      h("datalist", { id: list }, this.labels.map((label) => h("option", { value: label }))),
    ]);
  },
};
