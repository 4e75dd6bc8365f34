"""How the set-up speaks and runs its long commands. Standard library only; part of setup_env.py."""

import re
import shutil
import subprocess
import sys
import time


def fail(message):
    """End with one line that says what is wrong and what to do."""
    sys.exit("setup: error: " + message)


def say(message):
    print("setup: " + message, flush=True)


class Step:
    """A long command, started at once; its output goes to a log file, the screen shows how far it is.

    Arguments:
        name: what is being done, for the screen.
        command: list of strings.
        log: the file that takes the command's output, a Path.
        env: the command's environment.
    """

    running = []

    def __init__(self, name, command, log, env=None):
        self.name = name
        self.log = log
        self.started = time.time()
        log.parent.mkdir(parents=True, exist_ok=True)
        with open(str(log), "wb") as stream:
            self.process = subprocess.Popen(
                command, stdout=stream, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, env=env, close_fds=False
            )  # open files are inherited for the sake of setup_env.py's lock
        Step.running.append(self)

    def seconds(self):
        return time.time() - self.started

    def progress(self):
        """The last line of the log, or what a compiler line says about the number of files."""
        with open(str(self.log), "rb") as stream:
            stream.seek(max(0, self.log.stat().st_size - 2**16))
            text = stream.read().decode("utf-8", "replace")
        files = re.findall(r"^\s*\[(\d+)/(\d+)\] ", text, re.MULTILINE)
        if files:
            return "{} of {} files compiled".format(*files[-1])
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        return lines[-1] if lines else ""

    def wait(self):
        """Show the progress until the command has ended; its exit code."""
        terminal = sys.stdout.isatty()
        shown = time.time()
        while self.process.poll() is None:
            time.sleep(0.2)
            if time.time() - shown > (0.5 if terminal else 30):
                shown = time.time()
                width = min(shutil.get_terminal_size().columns, 100)
                line = "setup: {}, {:.0f} s: {}".format(self.name, self.seconds(), self.progress())[: width - 1]
                print(line + "\033[K\r" if terminal else line, end="" if terminal else "\n", flush=True)
        if terminal:
            print("\033[K", end="", flush=True)
        Step.running.remove(self)
        return self.process.returncode

    def failed(self):
        """Whether the command has ended with an error by now."""
        return bool(self.process.poll())

    def fail(self, advice):
        """Show the end of the log and leave."""
        lines = self.log.read_text(errors="replace").splitlines()[-15:]
        print("\n".join("  " + line for line in lines))
        fail("{} failed; the lines above end the log {}; {}".format(self.name, self.log, advice))

    @classmethod
    def stop_all(cls):
        for step in cls.running:
            step.process.terminate()
        for step in cls.running:
            step.process.wait()
