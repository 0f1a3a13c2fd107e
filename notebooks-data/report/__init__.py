"""Figures and a page from a results file; schema.md describes the file.

`load(path)` gives a Results; every figure function takes one and returns a Plot, or None where the file has nothing to draw.
"""
PACKAGES = {"h5py": "python3-h5py", "numpy": "python3-numpy", "matplotlib": "python3-matplotlib"}
try:
    from .figures import (MAKERS, causes_plot, code_plot, concentration_plot, gain_plot, layer_plot, output_error_plot,
                          output_gain_plot, pairing_table, pareto_plot, plots, proxy_plot, proxy_table, ratio_plot, scale_code_plot,
                          scale_moves_plot, terms_plot, theory_plot, theory_sigma_plot, weight_error_plot)
    from .results import ReportError, Results, load
except ImportError as missing:
    module = (missing.name or "matplotlib").split(".")[0]
    raise SystemExit(f"report: the Python module {module} does not load: {missing} "
                     f"(apt install {PACKAGES.get(module, 'python3-matplotlib')})") from None
