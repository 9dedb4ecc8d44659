"""What has been listed and measured: unit files, reading their columns, merging them."""

from curation.ledger.ledger import BIG_COLUMNS, Ledger
from curation.ledger.unitfiles import unit_name

__all__ = ["BIG_COLUMNS", "Ledger", "unit_name"]
