# PyInstaller's hook. The native module imports these by their names.
hiddenimports = [
    "rprof._decorate",
    "rprof._labels",
    "rprof._native",
    "rprof._profile",
    "rprof._session",
    "rprof._watch",
    "rprof.errors",
    "rprof.viewer",
]
