"""Kernels that are forked from a process that has imported torch and the panels already, four seconds of CPU each."""

from __future__ import annotations

import multiprocessing
import os
import sys
import uuid
from multiprocessing.context import ForkServerProcess
from pathlib import Path

from jupyter_client.manager import AsyncKernelManager
from jupyter_client.provisioning import LocalProvisioner


def serve(connection_file: str, environment: dict[str, str], folder: str) -> None:
    """A kernel, in this process."""
    from ipykernel.kernelapp import IPKernelApp

    os.setsid()  # as the launcher does: signals for a kernel go to its group
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    # The notebook imports the kit itself, and tqdm.auto, which looks when it is imported whether this is a notebook.
    for name in [name for name in sys.modules if name.startswith(("d2rkit", "tqdm.auto"))]:
        del sys.modules[name]
    IPKernelApp.launch_instance(argv=["-f", connection_file])


class Process:
    """What Jupyter expects of a subprocess.Popen."""

    stdin = stdout = stderr = None

    def __init__(self, process: ForkServerProcess) -> None:
        self.process = process
        self.pid, self.send_signal = process.pid, lambda number: os.kill(process.pid, number)
        self.kill, self.terminate = process.kill, process.terminate

    def poll(self) -> int | None:
        return self.process.exitcode

    def wait(self) -> int | None:
        self.process.join()
        return self.process.exitcode


class ForkedProvisioner(LocalProvisioner):
    async def launch_kernel(self, cmd: list[str], **kwargs) -> dict:
        folder = kwargs.get("cwd") or str(Path.cwd())
        arguments = cmd[cmd.index("-f") + 1], dict(kwargs.get("env") or os.environ), folder
        process = multiprocessing.get_context("forkserver").Process(target=serve, args=arguments)
        process.start()
        self.process, self.pid, self.pgid, self.cwd = Process(process), process.pid, None, folder
        return self.connection_info


class ForkedKernels(AsyncKernelManager):
    """For NotebookClient(..., kernel_manager_class=ForkedKernels)."""

    async def _async_pre_start_kernel(self, **kwargs):
        self.kernel_id = self.kernel_id or str(uuid.uuid4())
        self.provisioner = self.provisioner or ForkedProvisioner(
            kernel_id=self.kernel_id, kernel_spec=self.kernel_spec, parent=self
        )
        return await super()._async_pre_start_kernel(**kwargs)

    pre_start_kernel = _async_pre_start_kernel
