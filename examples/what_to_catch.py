"""What a program catches around a pipeline: one CdcError, never an exception group."""

from __future__ import annotations

import sys

from settings import run, shop_transport
from shop import PrintingMailer, make_handler

from cdc_core import CdcError, NotProvisioned, Pipeline
from cdc_wal import SlotLost


async def main() -> int:
    pipeline = Pipeline(name="shop", transport=shop_transport(), handler=make_handler({}, PrintingMailer()))
    try:
        await pipeline.run()
    except SlotLost as error:  # changes are missing for good, and somebody has to decide what to do
        print(f"lost: from {error.gap.from_lsn} to {error.gap.to_lsn} of {error.gap.tables}: {error.remedy}")
        return 3
    except NotProvisioned as error:
        print(f"not provisioned: {error}")
        return 2
    except CdcError as error:
        print(f"{type(error).__name__}, retryable {error.retryable}: {error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(run(main))
