"""A comparison of runs as HTML for notebooks: the figures that the command line prints, and their conclusions."""

from markupsafe import Markup

from eval.compare import Comparison, RunComparison, Side
from eval.comparison_printing import CAPTION, count_answers, figure_rows, list_notes
from eval.conclusion import conclude, describe_setting
from retrieval.display import heading, line, table


def comparison_html(comparison: Comparison) -> str:
    """Return a comparison as tables with its conclusions; names appear as text whatever they hold."""
    shown = [_figures(comparison.before, other) for other in comparison.others]
    return str(Markup("").join([*shown, *map(line, list_notes(comparison))]))


def _figures(before: Side, other: RunComparison) -> Markup:
    columns, rows = figure_rows(before, other)
    settings = [(name, describe_setting(was), describe_setting(now)) for name, (was, now) in other.changed.items()]
    changed = table(["setting", before.name, other.after.name], settings) if settings else Markup("")
    conclusion = heading(conclude(before, other))
    return table(columns, rows, caption=CAPTION) + line(count_answers(other)) + changed + conclusion
