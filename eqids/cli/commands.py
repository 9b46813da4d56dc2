"""Every command with the configs of its flags, but for the sections of the bench."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from eqids.config import (
    AddConfig,
    DoctorConfig,
    EqidsToHfConfig,
    EqidsToOnnxConfig,
    EqidsToOrbaxConfig,
    EqidsToStablehloConfig,
    EstimateConfig,
    EvaluateConfig,
    ExportConfig,
    GgufToHfConfig,
    GrowConfig,
    HfToHfConfig,
    InspectConfig,
    ItemsConfig,
    ListConfig,
    ListStepsConfig,
    MigrateConfig,
    OrbaxToEqidsConfig,
    PlanConfig,
    PrepareConfig,
    ProveConfig,
    PushConfig,
    RebalanceConfig,
    RecommendConfig,
    ReportConfig,
    RetireConfig,
    ServeConfig,
    ShowConfig,
    ShowLayoutConfig,
    ShowStepConfig,
    TrainConfig,
    VerifyConfig,
)


@dataclass(frozen=True)
class Command:
    """A command: what is typed after `python -m`.

    Attributes:
        does: what it does, in a few words.
        kinds: by the subcommand's name, the class of its config; the name of a command
            without subcommands is empty.
        positional: whether required fields are positional.
    """

    does: str
    kinds: Mapping[str, type[Any]]
    positional: bool = False


COMMANDS: Mapping[str, Command] = MappingProxyType(
    {
        "eqids.prepare": Command(
            "makes a dataset from interactions", {"": PrepareConfig}
        ),
        "eqids.train": Command("trains a recommender", {"": TrainConfig}),
        "eqids.evaluate": Command(
            "measures a model on a dataset", {"": EvaluateConfig}
        ),
        "eqids.report": Command(
            "draws a report of runs: one HTML file", {"": ReportConfig}, positional=True
        ),
        "eqids.recommend": Command("recommends items", {"": RecommendConfig}),
        "eqids.serve": Command(
            "answers requests for recommendations over HTTP", {"": ServeConfig}
        ),
        "eqids.catalog": Command(
            "changes the items of a dataset and migrates checkpoints",
            {
                "add": AddConfig,
                "retire": RetireConfig,
                "grow": GrowConfig,
                "rebalance": RebalanceConfig,
                "migrate": MigrateConfig,
                "show": ShowConfig,
            },
        ),
        "eqids.checkpoint": Command(
            "lists, verifies, shows and exports checkpoints",
            {
                "list": ListStepsConfig,
                "verify": VerifyConfig,
                "show": ShowStepConfig,
                "export": ExportConfig,
            },
            positional=True,
        ),
        "eqids.doctor": Command(
            "checks this machine and installation", {"": DoctorConfig}
        ),
        "convert": Command(
            "inspects and converts weights",
            {
                "inspect": InspectConfig,
                "gguf-to-hf": GgufToHfConfig,
                "hf-to-hf": HfToHfConfig,
                "eqids-to-hf": EqidsToHfConfig,
                "eqids-to-onnx": EqidsToOnnxConfig,
                "eqids-to-stablehlo": EqidsToStablehloConfig,
                "eqids-to-orbax": EqidsToOrbaxConfig,
                "orbax-to-eqids": OrbaxToEqidsConfig,
                "items": ItemsConfig,
                "push": PushConfig,
            },
            positional=True,
        ),
        "sharding": Command(
            "shows layouts of devices and their memory",
            {
                "list": ListConfig,
                "show": ShowLayoutConfig,
                "estimate": EstimateConfig,
                "prove": ProveConfig,
                "plan": PlanConfig,
            },
        ),
        "bench": Command("measures speed, beside other software", {}),
    }
)
