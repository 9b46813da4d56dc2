"""What a model card says, and where that comes from."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from convert.hub import repository_of
from convert.json_file import read_object
from eqids.checkpoints import Manifest
from eqids.config import ModelConfig, RunConfig
from eqids.data.info import INFO_FILE, DatasetInfo, read_info
from eqids.fit.results import REQUEST_TIME, RESULT_FILE

_PUBLIC = {
    "ml-100k": "MovieLens-100K",
    "ml-1m": "MovieLens-1M",
    "ml-20m": "MovieLens-20M",
}
"""Names of public data by the kind of --source."""


@dataclass(frozen=True)
class CardFacts:
    """What a card is made of.

    Attributes:
        name: of the model.
        licence: the hub's identifier, or None if it is not known.
        run: the config of the run.
        sizes: of the model.
        manifest: of the checkpoint.
        base: the hub's name of the pretrained Llama, if it is known.
        base_licence: the name of the file with the Llama's licence, if there is one.
        data: the dataset, if it is still where the run found it.
        result: metrics with their protocol, or none.
    """

    name: str
    licence: str | None
    run: RunConfig
    sizes: ModelConfig
    manifest: Manifest
    base: str | None
    base_licence: str | None
    data: DatasetInfo | None
    result: Mapping[str, Any] | None

    @property
    def public(self) -> str | None:
        """The kind of the data's source, if it is a public data set."""
        kind = "" if self.data is None else self.data.source.partition(":")[0]
        return kind if kind in _PUBLIC else None

    @property
    def data_name(self) -> str:
        """A name of the data that says nothing of files."""
        short = self.manifest.meta["dataset_hash"][:12]
        own = f"dataset {short} of the model's author"
        return own if self.public is None else _PUBLIC[self.public]

    @property
    def protocol(self) -> Mapping[str, Any]:
        """How histories were split and what is known at a target."""
        fields = self.manifest.meta["protocol"].items()
        found = {key: one for key, one in fields if one is not None}
        return {**found, REQUEST_TIME: True} if self.sizes.request_time else found


def card_facts(
    name: str,
    licence: str | None,
    checkpoint: Path,
    manifest: Manifest,
    run: RunConfig,
    sizes: ModelConfig,
    llama: Path | None,
) -> CardFacts:
    """Collects what a card says.

    Args:
        name: of the model.
        licence: as for `CardFacts`.
        checkpoint: DIR/STEP, beside which the result of the run may be.
        manifest: the checkpoint's.
        run: its config.
        sizes: of its model.
        llama: the folder of the pretrained Llama, if there is one.

    Raises:
        UserError: a file of the result or of the dataset is damaged.
    """
    meta, data, result = manifest.meta, None, manifest.meta.get("validation")
    if (run.data_dir / INFO_FILE).is_file():
        found = read_info(run.data_dir / INFO_FILE)
        data = found if found.dataset_hash == meta["dataset_hash"] else None
    file = checkpoint.parent / RESULT_FILE
    if file.is_file():
        values = read_object(file)
        measured = values.get("step"), values.get("protocol", {}).get("dataset_hash")
        same = measured == (manifest.step, meta["dataset_hash"])
        result = values if same else result
    licences = ("LICENSE", "LICENSE.txt")
    found_licence = [n for n in licences if llama is not None and (llama / n).is_file()]
    return CardFacts(
        name, licence, run, sizes, manifest,
        base=None if llama is None else repository_of(llama),
        base_licence=found_licence[0] if found_licence else None,
        data=data,
        result=result,
    )  # fmt: skip
