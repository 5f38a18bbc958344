"""Results in the formats of other tools: a module per format, one mapping of names to them."""

from collections.abc import Callable
from dataclasses import dataclass

from clipzs.exports.common import Export, Settings
from clipzs.exports.cvat import CvatExport
from clipzs.exports.fiftyone import FiftyOneExport
from clipzs.exports.hf import HfExport
from clipzs.exports.iptc import IptcExport
from clipzs.exports.labelstudio import LabelStudioExport
from clipzs.exports.parquet import ParquetExport
from clipzs.exports.xmp import XmpExport


@dataclass(frozen=True)
class Format:
    """How an export is made, and which fields of `Settings` it heeds besides `unknown`."""

    make: Callable[[Settings], Export]
    heeds: frozenset[str]


FORMATS: dict[str, Format] = {
    "parquet": Format(ParquetExport, frozenset({"target"})),
    "hf": Format(HfExport, frozenset({"target", "min_score"})),
    "labelstudio": Format(
        LabelStudioExport,
        frozenset({"target", "min_score", "base", "url_prefix", "from_name", "to_name", "label_config"}),
    ),
    "fiftyone": Format(FiftyOneExport, frozenset({"target", "min_score"})),
    "cvat": Format(CvatExport, frozenset({"target", "min_score", "base", "label_config"})),
    "xmp": Format(XmpExport, frozenset({"min_score", "sidecar_name", "dry_run"})),
    "iptc": Format(IptcExport, frozenset({"min_score", "dry_run", "yes", "backup"})),
}
