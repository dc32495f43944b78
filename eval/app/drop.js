// Takes a picture that is chosen, dropped or pasted, and sends it to the server it came from.
import { h } from "vue";

export default {
  props: { most: Number },
  emits: ["picture", "refused"],
  data: () => ({ over: false }),
  mounted() {
    document.addEventListener("paste", this.paste);
  },
  unmounted() {
    document.removeEventListener("paste", this.paste);
  },
  methods: {
    paste(event) {
      const file = [...(event.clipboardData?.files ?? [])][0];
      if (!file) return;
      event.preventDefault();
      this.send(file);
    },
    async send(file) {
      if (!file) return;
      if (file.size > this.most) return this.$emit("refused", `The file is larger than ${this.most / 2 ** 20} MiB.`);
      try {
        const answer = await fetch("/upload", { method: "POST", body: file });
        this.$emit(answer.ok ? "picture" : "refused", await answer.text());
      } catch {
        this.$emit("refused", "The server does not answer: is vmem serve still running?");
      }
    },
  },
  render() {
    const stop = (over) => (event) => {
      event.preventDefault();
      this.over = over;
    };
    const drop = (event) => {
      stop(false)(event);
      this.send(event.dataTransfer.files[0]);
    };
    const choose = (event) => {
      this.send(event.target.files[0]);
      event.target.value = "";
    };
    const input = h("input", { type: "file", accept: "image/*", class: "unseen", onChange: choose });
    return h(
      "div",
      { class: ["drop", { over: this.over }], onDragover: stop(true), onDragleave: stop(false), onDrop: drop },
      [
        this.$slots.default?.(),
        h("label", { class: "button main" }, [input, "Choose a picture"]),
        h("p", { class: "soft small" }, "or drop or paste one here"),
      ],
    );
  },
};
