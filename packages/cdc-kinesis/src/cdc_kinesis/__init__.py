"""Amazon Kinesis as a transport: order per key through partial failure, shard leases in DynamoDB."""

from ._config import KinesisConfig as KinesisConfig
from ._errors import AnswerLost as AnswerLost
from ._errors import AwsAccessError as AwsAccessError
from ._errors import AwsError as AwsError
from ._iam import PolicyRole as PolicyRole
from ._iam import minimal_policy as minimal_policy
from ._pacing import Pacing as Pacing
from ._pacing import ShardPace as ShardPace
from ._position import KinesisPosition as KinesisPosition
from ._retention import ShardGap as ShardGap
from ._transport import KinesisTransport as KinesisTransport
from ._transport import entry as entry
from ._version import __version__ as __version__
