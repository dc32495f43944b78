// A list of small pictures as on a card (card.html.jinja), each a button. Nodes are kept by key, so that the focus stays where it is.
import { h } from "vue";

function thumbnail(picture) {
  if (!picture.source) return h("span", { class: "photo nothing" });
  return h("img", { class: "photo", key: picture.source, src: picture.source, alt: "", loading: "lazy", decoding: "async" });
}

export default {
  props: { pictures: Array },
  emits: ["choose"],
  render() {
    const one = (picture) =>
      h("li", { key: picture.key, class: picture.mark }, [
        h(
          "button",
          {
            type: "button",
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
    return h("ol", { class: "neighbors pictures" }, this.pictures.map(one));
  },
};
