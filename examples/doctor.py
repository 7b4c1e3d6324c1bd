"""Shows what provisioning would do and what is wrong with the server: python doctor.py [apply]."""

from __future__ import annotations

import sys

from settings import run, shop_transport


async def main(command: str) -> int:
    async with shop_transport().provisioner() as provisioner:
        plan = await provisioner.plan()  # changes nothing, and holds no secret
        for check in plan.checks:  # the doctor
            print(f"{check.state:8} {check.name}: {check.why} {check.remedy}".rstrip())
        for step in plan.steps:  # create, change, keep or refuse
            print(f"{step.action:8} {step.kind} {step.name}: {step.detail} {step.remedy}".rstrip())
        if plan.is_refused:
            return 1
        if command == "apply":
            await provisioner.apply(plan)  # idempotent; PlanOutdated where the world has moved on since
    return 0


if __name__ == "__main__":
    sys.exit(run(main, sys.argv[1] if len(sys.argv) > 1 else "plan"))
