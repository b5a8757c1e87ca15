"""multiprocessing: its children end by os._exit, or by SIGTERM (`terminate`, `with Pool`)."""

from scene import Scene

PROGRAM = """
import multiprocessing, sys, time
import rprof.auto
from working import work

def wait():
    work()
    time.sleep(60)

def main():
    context = multiprocessing.get_context(sys.argv[1])
    how = sys.argv[2]
    if how == "with Pool":
        with context.Pool(2) as pool:
            pool.map(work, [0.2] * 6, chunksize=1)
        return
    processes = [context.Process(target=wait if how == "terminate" else work) for _ in range(2)]
    for process in processes: process.start()
    if how == "terminate":
        import os
        while len(os.listdir(os.environ["WORKED"])) < 2: time.sleep(0.02)
        for process in processes: process.terminate()
    for process in processes: process.join()

if __name__ == "__main__":
    main()
"""


def _run(scene: Scene, method: str, how: str) -> None:
    scene.write("program.py", PROGRAM)
    scene.run("python", "program.py", method, how)


CASES = {
    f"{how}, {method}": lambda scene, method=method, how=how: _run(scene, method, how)
    for how in ("Process", "terminate", "with Pool")
    for method in ("fork", "spawn", "forkserver")
}
