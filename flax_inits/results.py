"""The types of what the functions return, for annotations; pickles name them here."""

from ._tree.forms import Among as Among
from ._tree.labels import Labels as Labels
from ._modules.linen.of_type import OfType as OfType
from ._modules.nnx.of_type import OfNNXType as OfNNXType
from .initializers._build.configured import Configured as Configured
from .initializers.catalogue import Catalogue as Catalogue
from .initializers.catalogue import CatalogueEntry as CatalogueEntry
from ._surgery.graft_plan import GraftPlan as GraftPlan
from ._surgery.graft_plan import GraftRow as GraftRow
from ._model.jit_init import JitInit as JitInit
from ._model.lowered import Lowered as Lowered
from ._model.lowered import Compiled as Compiled
from ._model.plan import Plan as Plan
from ._model.plan import PlanRow as PlanRow
from ._reports.summary_table import Summary as Summary
from ._reports.summary_table import SummaryRow as SummaryRow
from ._reports.signal_table import Signal as Signal
from ._reports.signal_table import SignalRow as SignalRow
from ._reports.verdicts import Verdict as Verdict
from ._schemes.deepnorm import ResidualGains as ResidualGains
from ._schemes.mup import Mup as Mup
from ._schemes.mup_rows import MupRow as MupRow
