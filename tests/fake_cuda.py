"""The part of `torch.cuda` that the clock of the benchmarks uses, without a GPU."""

import contextlib
from argparse import Namespace


class FakeCuda:
    """The part of `torch.cuda` that a `DeviceClock` uses; what is called goes to `log`.

    A captured block runs once, as it is entered; `capturable=False` makes the capture fail as CUDA
    does, at its end. Every event pair is 2 ms apart.
    """

    def __init__(self, capturable=True):
        self.log, self.capturable = [], capturable
        self.CUDAGraph = lambda: Namespace(replay=lambda: self.log.append("replay"))

    def Stream(self, device):
        return Namespace(wait_stream=lambda other: None)

    current_stream = Stream

    def stream(self, stream):
        return contextlib.nullcontext()

    def set_stream(self, stream):
        self.log.append("stream put back")

    def Event(self, enable_timing):
        return Namespace(
            record=lambda: self.log.append("event"),
            synchronize=lambda: None,
            elapsed_time=lambda end: 2.0,
        )

    def synchronize(self, device):
        pass

    def graph_pool_handle(self):
        return 1

    @contextlib.contextmanager
    def graph(self, graph, pool, stream):
        self.log.append("capture")
        yield
        if not self.capturable:
            raise RuntimeError("operation not permitted when stream is capturing\nmore")
