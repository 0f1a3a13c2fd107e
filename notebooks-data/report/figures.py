"""Every figure and table, in the order of the page."""
from .decomposition import causes_plot, terms_plot
from .errors import gain_plot, weight_error_plot
from .layers import layer_plot
from .outputs import output_error_plot, proxy_plot, proxy_table
from .places import code_plot, concentration_plot, ratio_plot, scale_code_plot
from .scales import scale_moves_plot
from .tradeoffs import pareto_plot, theory_plot
from .words import pairing_table


def output_gain_plot(results):
    return gain_plot(results, "output_error")


def theory_sigma_plot(results):
    return theory_plot(results, "sigma")


# The names of the files that each makes.
MAKERS = {
    "weight_error": weight_error_plot, "pairs": pairing_table, "pareto": pareto_plot, "terms": terms_plot, "causes": causes_plot,
    "error_by_code": code_plot, "error_by_ratio": ratio_plot, "scale_moves": scale_moves_plot, "scale_codes": scale_code_plot,
    "concentration": concentration_plot, "theory_block": theory_plot, "theory_sigma": theory_sigma_plot, "output_error": output_error_plot,
    "proxies": proxy_plot, "correlations": proxy_table, "gain_weight": gain_plot, "gain_output": output_gain_plot, "layers": layer_plot,
}


def plots(results):
    """Every figure and table that the file has data for."""
    made = [maker(results) for maker in MAKERS.values()] if results.size else []
    return [plot for plot in made if plot]
