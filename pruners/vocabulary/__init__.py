"""Words that nobody uses: a text model and its tokeniser without them."""

from pruners.vocabulary.rows import VOCABULARY, Vocabulary, cut_rows, tables
from pruners.vocabulary.smaller import smaller_vocabulary

__all__ = ["VOCABULARY", "Vocabulary", "cut_rows", "smaller_vocabulary", "tables"]
