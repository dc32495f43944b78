// A list of small pictures, each a button. Nodes are kept by key, so that the focus stays where it is.
import { h } from "vue";

function thumbnail(picture) {
  if (!picture.source) return h("span", { class: "nothing" });
  return h("img", { key: picture.source, src: picture.source, alt: "", loading: "lazy", decoding: "async" });
}

export default {
  props: { pictures: Array },
  emits: ["choose"],
  render() {
    const one = (picture) =>
      h("li", { key: picture.key }, [
        h(
          "button",
          {
            type: "button",
            class: picture.mark,
            "aria-label": picture.spoken,
            title: picture.spoken,
            onClick: () => this.$emit("choose", picture.key),
          },
          [
            thumbnail(picture),
            h("span", { class: "label" }, picture.title),
            h("span", { class: "note" }, picture.note),
          ],
        ),
      ]);
    return h("ol", { class: "pictures" }, this.pictures.map(one));
  },
};
