"""What has been listed and measured: unit files, reading their columns, merging them."""

from curation.ledger.ledger import Ledger
from curation.ledger.unitfiles import unit_name

__all__ = ["Ledger", "unit_name"]
