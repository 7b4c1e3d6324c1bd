from ._decoder import Decoder as Decoder
from ._errors import DecodeError as DecodeError
from ._errors import PgOutputError as PgOutputError
from ._json_text import UNAVAILABLE as UNAVAILABLE
from ._lsn import Lsn as Lsn
from ._messages import (
    AnyMessage as AnyMessage,
)
from ._messages import (
    Begin as Begin,
)
from ._messages import (
    BeginPrepare as BeginPrepare,
)
from ._messages import (
    Column as Column,
)
from ._messages import (
    Commit as Commit,
)
from ._messages import (
    CommitPrepared as CommitPrepared,
)
from ._messages import (
    Delete as Delete,
)
from ._messages import (
    Insert as Insert,
)
from ._messages import (
    Message as Message,
)
from ._messages import (
    Origin as Origin,
)
from ._messages import (
    Prepare as Prepare,
)
from ._messages import (
    Relation as Relation,
)
from ._messages import (
    ReplicaIdentity as ReplicaIdentity,
)
from ._messages import (
    RollbackPrepared as RollbackPrepared,
)
from ._messages import (
    StreamAbort as StreamAbort,
)
from ._messages import (
    StreamCommit as StreamCommit,
)
from ._messages import (
    StreamPrepare as StreamPrepare,
)
from ._messages import (
    StreamStart as StreamStart,
)
from ._messages import (
    StreamStop as StreamStop,
)
from ._messages import (
    Truncate as Truncate,
)
from ._messages import (
    Type as Type,
)
from ._messages import (
    Update as Update,
)
from ._moments import Interval as Interval
from ._registry import (
    TypeInfo as TypeInfo,
)
from ._registry import (
    TypeKind as TypeKind,
)
from ._registry import (
    TypeRegistry as TypeRegistry,
)
from ._registry import (
    ValueCodec as ValueCodec,
)
from ._replication import (
    PrimaryKeepalive as PrimaryKeepalive,
)
from ._replication import (
    ReplicationMessage as ReplicationMessage,
)
from ._replication import (
    StandbyStatusUpdate as StandbyStatusUpdate,
)
from ._replication import (
    XLogData as XLogData,
)
from ._replication import (
    parse_replication_message as parse_replication_message,
)
from ._row_codec import (
    DeleteJson as DeleteJson,
)
from ._row_codec import (
    InsertJson as InsertJson,
)
from ._row_codec import (
    RowCodec as RowCodec,
)
from ._row_codec import (
    UpdateJson as UpdateJson,
)
from ._tuples import UNCHANGED_TOAST as UNCHANGED_TOAST
from ._tuples import Row as Row
from ._tuples import UnchangedToast as UnchangedToast
from ._version import __version__ as __version__

# tracebacks and pickles name the public path
for _public in [value for value in globals().values() if isinstance(value, type)]:
    if _public.__module__.startswith(f"{__name__}."):
        _public.__module__ = __name__
