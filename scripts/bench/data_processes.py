"""The processes of a measurement: what they hold, how they end, and what other programs take from them
meanwhile. From /proc."""

import os
import pathlib
import resource
import signal
import time

# Memory that cannot be dropped: files that are mapped (programs, shards) can be read again.
COUNTED_MEMORY = ("Pss_Anon:", "Pss_Shmem:")
# Above this share of the processors, other programs disturb a measurement.
DISTURBING_SHARE = 0.05


def children_by_parent():
    children = {}
    for status in pathlib.Path("/proc").glob("[0-9]*/stat"):
        try:
            # The program's name, in parentheses, may hold spaces.
            fields = status.read_text().rpartition(")")[2].split()
        except OSError:
            continue  # It has ended since.
        children.setdefault(int(fields[1]), []).append(int(status.parent.name))
    return children


def tree_bytes(root):
    """Bytes of private and shared memory in the process tree; a page that several processes share
    counts once."""
    children = children_by_parent()
    total = 0
    processes = [root]
    while processes:
        process = processes.pop()
        processes += children.get(process, [])
        try:
            rollup = pathlib.Path(f"/proc/{process}/smaps_rollup").read_text()
        except OSError:
            continue  # It has ended since, or is ending.
        for line in rollup.splitlines():
            if line.startswith(COUNTED_MEMORY):
                total += int(line.split()[1]) * 1024
    return total


def end_group(process):
    """Ends a child that leads a process group, and all of the group with it, if it still runs."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


class OtherPrograms:
    """The share of all processors that others than this process and its ended children take."""

    def __init__(self):
        self.others, self.all = self.ticks()

    @staticmethod
    def ticks():
        line = pathlib.Path("/proc/stat").read_text().splitlines()[0]
        user, nice, system, idle, waiting, *interrupts = map(int, line.split()[1:9])
        busy = user + nice + system + sum(interrupts)
        own = 0
        for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN):
            usage = resource.getrusage(who)
            own += (usage.ru_utime + usage.ru_stime) * os.sysconf("SC_CLK_TCK")
        return busy - own, busy + idle + waiting

    def share(self):
        """Since this was made."""
        others, everything = self.ticks()
        return max(0.0, (others - self.others) / max(1, everything - self.all))


def wait_until_quiet(deadline):
    """Returns when other programs leave the processors alone, at the latest at the deadline."""
    while time.monotonic() < deadline:
        others = OtherPrograms()
        time.sleep(1)
        if others.share() <= DISTURBING_SHARE:
            return
