"""What the pages of runs and of comparisons are made of."""

from typing import Final

PICTURED: Final = 200  # queries of a page that carry pictures, where nothing else is asked for
