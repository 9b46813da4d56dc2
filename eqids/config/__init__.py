"""Every setting of EqIDs: frozen dataclasses that refuse impossible values.

Flags are built from these classes, checkpoints store them as JSON, and presets
are rows of data. A sentence under each field is its help text.
"""

from eqids.config.catalog_flags import (
    AddConfig as AddConfig,
    ChangeConfig as ChangeConfig,
    GrowConfig as GrowConfig,
    MigrateConfig as MigrateConfig,
    RebalanceConfig as RebalanceConfig,
    RetireConfig as RetireConfig,
    ShowConfig as ShowConfig,
)
from eqids.config.checkpoint_flags import (
    ExportConfig as ExportConfig,
    ListStepsConfig as ListStepsConfig,
    ShowStepConfig as ShowStepConfig,
    VerifyConfig as VerifyConfig,
)
from eqids.config.content import check_content as check_content
from eqids.config.convert_flags import (
    ConversionConfig as ConversionConfig,
    EqidsToHfConfig as EqidsToHfConfig,
    FloatName as FloatName,
    GgufToHfConfig as GgufToHfConfig,
    HfToHfConfig as HfToHfConfig,
    InspectConfig as InspectConfig,
    ItemsConfig as ItemsConfig,
    LlamaFolderConfig as LlamaFolderConfig,
)
from eqids.config.distributed import ProcessesConfig as ProcessesConfig
from eqids.config.errors import (
    Stopped as Stopped,
    UserError as UserError,
    require as require,
)
from eqids.config.inference_flags import (
    EvaluateConfig as EvaluateConfig,
    OpenConfig as OpenConfig,
    PrepareConfig as PrepareConfig,
    RecommendConfig as RecommendConfig,
    TimeUnit as TimeUnit,
)
from eqids.config.layout_flags import (
    EstimateConfig as EstimateConfig,
    ListConfig as ListConfig,
    MachineConfig as MachineConfig,
    PlanConfig as PlanConfig,
    ProveConfig as ProveConfig,
    ShowLayoutConfig as ShowLayoutConfig,
)
from eqids.config.model import (
    LLAMA_PRESETS as LLAMA_PRESETS,
    LORA_TARGETS as LORA_TARGETS,
    LlamaConfig as LlamaConfig,
    LlamaSize as LlamaSize,
    LoraConfig as LoraConfig,
    LoraTarget as LoraTarget,
    ModelConfig as ModelConfig,
    RopeScaling as RopeScaling,
)
from eqids.config.negation import negation_of as negation_of, on_unless as on_unless
from eqids.config.serial import from_json as from_json, to_json as to_json
from eqids.config.stages import (
    LLAMA_FLAGS as LLAMA_FLAGS,
    MODEL_FLAGS as MODEL_FLAGS,
    RUN_FLAGS as RUN_FLAGS,
    flag as flag,
    model_flags as model_flags,
    taken_over as taken_over,
)
from eqids.config.train_flags import (
    NANO_RECIPE as NANO_RECIPE,
    PRETRAINED_RECIPES as PRETRAINED_RECIPES,
    InitItems as InitItems,
    ItemOptimizer as ItemOptimizer,
    Recipe as Recipe,
    RunConfig as RunConfig,
    Schedule as Schedule,
    Strategy as Strategy,
    TrainConfig as TrainConfig,
    WordsConfig as WordsConfig,
    same_path as same_path,
)
