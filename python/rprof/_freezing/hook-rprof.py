# PyInstaller's hook: what is imported in functions only, and late.
hiddenimports = [
    "rprof._decorate",
    "rprof._native",
    "rprof._profile",
    "rprof._watch",
    "rprof.errors",
    "rprof.viewer",
]
