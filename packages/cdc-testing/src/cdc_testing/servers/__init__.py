from ._accounts import Account as Account
from ._errors import ServerError as ServerError
from ._errors import ServerStartError as ServerStartError
from ._errors import ServerTimeoutError as ServerTimeoutError
from ._errors import ServerUnavailableError as ServerUnavailableError
from ._guard import Guard as Guard
