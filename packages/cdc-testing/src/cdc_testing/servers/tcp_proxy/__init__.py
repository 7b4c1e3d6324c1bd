from ._connection import Ending as Ending
from ._faults import Direction as Direction
from ._proxy import ProxyFactory as ProxyFactory
from ._proxy import ProxyStatistics as ProxyStatistics
from ._proxy import TcpProxy as TcpProxy
from ._proxy import open_tcp_proxy as open_tcp_proxy
