"""Every setting of EqIDs: frozen dataclasses that refuse impossible values.

Flags are built from these classes, checkpoints store them as JSON, and presets are
rows of data. The sentence under a field is its help text.
"""

from eqids.config.bounds import (
    ABOVE_ZERO as ABOVE_ZERO,
    ONE_OR_MORE as ONE_OR_MORE,
    OPEN_SHARE as OPEN_SHARE,
    SEED as SEED,
    ZERO_OR_MORE as ZERO_OR_MORE,
    check_flags as check_flags,
)
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
from eqids.config.choices import (
    Dtype as Dtype,
    FloatName as FloatName,
    HardwareName as HardwareName,
    InitItems as InitItems,
    ItemOptimizer as ItemOptimizer,
    Schedule as Schedule,
    Strategy as Strategy,
    TimeUnit as TimeUnit,
)
from eqids.config.content import check_content as check_content
from eqids.config.convert_flags import (
    ConversionConfig as ConversionConfig,
    EqidsToHfConfig as EqidsToHfConfig,
    EqidsToOnnxConfig as EqidsToOnnxConfig,
    EqidsToOrbaxConfig as EqidsToOrbaxConfig,
    EqidsToStablehloConfig as EqidsToStablehloConfig,
    GgufToHfConfig as GgufToHfConfig,
    HfToHfConfig as HfToHfConfig,
    InspectConfig as InspectConfig,
    ItemsConfig as ItemsConfig,
    LlamaFolderConfig as LlamaFolderConfig,
    OrbaxToEqidsConfig as OrbaxToEqidsConfig,
    ProgramsConfig as ProgramsConfig,
    PushConfig as PushConfig,
)
from eqids.config.distributed import ProcessesConfig as ProcessesConfig
from eqids.config.doctor_flags import DoctorConfig as DoctorConfig
from eqids.config.errors import (
    Stopped as Stopped,
    UserError as UserError,
    require as require,
)
from eqids.config.evaluation_flags import (
    EvaluateConfig as EvaluateConfig,
    Metric as Metric,
    ReportConfig as ReportConfig,
)
from eqids.config.flag_fields import (
    GROUPS as GROUPS,
    group_of as group_of,
    grouped as grouped,
    negation_of as negation_of,
    on_unless as on_unless,
)
from eqids.config.inference_flags import (
    OpenConfig as OpenConfig,
    RecommendConfig as RecommendConfig,
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
    MARKOV_ORDER as MARKOV_ORDER,
    SCRATCH_SIZES as SCRATCH_SIZES,
    LlamaConfig as LlamaConfig,
    LlamaSize as LlamaSize,
    LoraConfig as LoraConfig,
    LoraTarget as LoraTarget,
    ModelConfig as ModelConfig,
    RopeScaling as RopeScaling,
)
from eqids.config.prepare_flags import PrepareConfig as PrepareConfig
from eqids.config.recipe_rule import (
    ML_100K as ML_100K,
    NANO_RECIPE as NANO_RECIPE,
    DataFacts as DataFacts,
    continued_recipe as continued_recipe,
    preset_recipe as preset_recipe,
    recipe_for as recipe_for,
    recipe_text as recipe_text,
    size_for as size_for,
    with_adapter as with_adapter,
)
from eqids.config.recipes import (
    PRETRAINED_RECIPES as PRETRAINED_RECIPES,
    Recipe as Recipe,
)
from eqids.config.run_config import (
    Continued as Continued,
    RunConfig as RunConfig,
    TokensConfig as TokensConfig,
)
from eqids.config.serial import from_json as from_json, to_json as to_json
from eqids.config.serve_flags import ServeConfig as ServeConfig
from eqids.config.stages import (
    LLAMA_FLAGS as LLAMA_FLAGS,
    MODEL_FLAGS as MODEL_FLAGS,
    RUN_FLAGS as RUN_FLAGS,
    flag as flag,
    model_flags as model_flags,
    recorded_flags as recorded_flags,
    taken_over as taken_over,
)
from eqids.config.train_flags import (
    TrainConfig as TrainConfig,
    same_path as same_path,
)
