"""Threads of the command line wait in a bounded way, in its child processes too; a user's own setting stays."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from fewstep.runtime.threads import SPIN_COUNT, bound_waiting

_VARIABLES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")


def test_waiting_is_bounded_by_default() -> None:
    environment: dict[str, str] = {}
    bound_waiting(environment)
    assert environment == {"GOMP_SPINCOUNT": str(SPIN_COUNT), "KMP_BLOCKTIME": "1"}


@pytest.mark.parametrize("name", _VARIABLES)
def test_a_users_setting_stays_alone(name: str) -> None:
    environment = {name: "7"}
    bound_waiting(environment)
    assert environment == {name: "7"}


@pytest.mark.parametrize(
    ("own", "expected"), [({}, f"{SPIN_COUNT} None"), ({"OMP_WAIT_POLICY": "active"}, "None active")]
)
def test_the_command_sets_it_before_torch_is_imported(own: dict[str, str], expected: str) -> None:
    code = (
        "import sys\n"
        "class Watch:\n"
        "    def find_spec(self, name, path, target=None):\n"
        "        if name == 'torch':\n"
        "            import os\n"
        "            print(os.environ.get('GOMP_SPINCOUNT'), os.environ.get('OMP_WAIT_POLICY'), flush=True)\n"
        "            os._exit(0)\n"
        "sys.meta_path.insert(0, Watch())\n"
        "from fewstep.cli.main import main\n"
        "main(['list', 'objectives'])\n"
    )
    environment = {name: value for name, value in os.environ.items() if name not in _VARIABLES}
    done = subprocess.run(
        [sys.executable, "-c", code], env={**environment, **own}, capture_output=True, text=True, check=False
    )
    assert done.stdout.split("\n")[0] == expected, done.stderr
