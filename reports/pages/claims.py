"""Published claims beside what is measured here."""
from math import log10

from pages.common import markdown, mean, one, pick


def decibel(after, before):
    return f"{-10 * log10(after / before):+.2f} dB"


def page(rows):
    of = lambda file, **wanted: pick(rows, file=file, **wanted)
    error = lambda file, **wanted: mean(r["relative_mse"] for r in of(file, **wanted))
    octave = of("octave", block=32, method="rceil")
    span = lambda values: f"{min(values):.3f} .. {max(values):.3f}"
    scale = span([r["scale_bias_term"] / r["relative_mse"] for r in octave])
    inflation = span([r["log_inflation"] for r in octave])
    sse, naive = (error("distributions", input="normal", format="nvfp4", method=m, scale_max=448, rounding="rne", block_2d=0)
                  for m in ("sse", "naive"))
    spread = lambda form, method: decibel(*(error("hadamard", input="laplace", format=form, method=method, hadamard=h) for h in (128, 0)))
    thousandth = lambda **wanted: f"{1e3 * error('stochastic', **wanted):.2f}"
    quartet = ", ".join((thousandth(method="naive", rounding="rne", block_2d=0, hadamard=0),
                         thousandth(method="4over6", rounding="rne", block_2d=0), thousandth(method="naive", rounding="rne", block_2d=1),
                         thousandth(method="4over6", rounding="rne", block_2d=1),
                         thousandth(method="naive", rounding="stochastic_unbiased", block_2d=0), thousandth(method="ms_eden", hadamard=128)))
    precision = lambda sigma, scaling: (f"{100 * (error('scale_formats', sigma=sigma, format='e2m1_ue5m3', method='sse', tensor_scale_rule=scaling) / error('scale_formats', sigma=sigma, format='nvfp4', method='sse', tensor_scale_rule=scaling) - 1):+.1f} %")
    table = [
        ["arXiv 2605.20402 (the authors' post): scale bias 1.725 and 1.726, cosine -0.657 and -0.658, over two models' weights; the format's property",
         f"agrees: a plain Gaussian gives {scale} over an octave of sigma, so the numbers say nothing about a model", "[decomposition](decomposition/README.md)"],
        ["the same: dead zone orthogonal to scale bias", "exactly so for rules that round up, for which alone it is stated; under floor it is not",
         "[decomposition](decomposition/README.md)"],
        ["the same: mean inflation 44 %, from delta uniform on [0, 1); measured mean delta 0.546",
         f"the mean of log2(scale / ideal) of a Gaussian is {inflation} over the octave, 0.5 only on average", "[decomposition](decomposition/README.md)"],
        ["arXiv 2601.22813, table 1 and notebook, 1e-3: 9.0, 4/6 7.6, 16 x 16 12.4 and 12.4, SR 23.5, MS-EDEN 9.4 (table) and 9.8 (notebook)",
         f"agrees with the notebook: {quartet}", "[stochastic](stochastic/README.md)"],
        ["arXiv 2605.12464 (abstract): a search of the scale takes 27 % of NVFP4's error", f"agrees: {100 * (sse / naive - 1):+.1f} % on N(0, 1); it is the exhaustive optimum",
         "[distributions](distributions/README.md)"],
        ["NVIDIA Model-Optimizer, pull request 1881: decoupling gains nothing under squared error (relative gain below 1e-5)",
         "agrees, to the last bit", "[soar](soar/README.md)"],
        ["arXiv 2601.19026 (abstract): errors grow below some block size, for the limited range of quantized scales",
         "agrees: where, depends on sigma; an optimal scale per block, a tensor scale or five exponent bits remove it", "[paradox](paradox/README.md)"],
        ["arXiv 2607.24377 (abstract): Q = 7.25 is best, whatever the distribution",
         "another objective than ours: on a Gaussian the best Q depends on the block", "[octave](octave/README.md)"],
        ["arXiv 2510.25602, figure 4, Llama-3.1-8B: a rotation costs NVFP4 0.25 dB and gives MXFP4 0.81 dB",
         f"the same signs on Laplace data, 128 points: NVFP4 naive {spread('nvfp4', 'naive')}, MXFP4 floor {spread('mxfp4', 'floor')}, rceil {spread('mxfp4', 'rceil')}",
         "[hadamard](hadamard/README.md)"],
        ["the same, equations 13 and 24: integer SQNR with 6.02 b, Q near 2^(b-1)",
         "the paper names it an approximation; with Q = 7 itself the form is 1.16 dB lower and meets the samples (analysis/theory.hpp, its test)", ""],
        ["qwantize (README): UE5M3 scales beat E4M3 on a real layer",
         f"only without a tensor scale: {precision(0.02, 'none')} at sigma 0.02 under sse, and {precision(0.02, 'amax')} with one", "[scale formats](scale_formats/README.md)"],
    ]
    return f"""# Published claims, beside what is measured here

Only claims that could be read in their source: the place is named. The numbers on the right are read from the sweeps of the page
on the right.

{markdown(["published", "here", "page"], table)}

Not disputed, since their source could not be read: SOAR's errors of single layers; the decibels of macro-block scaling (arXiv
2603.08713; two accounts of it disagree on the baseline, see [corrections](corrections/README.md) for ours against both); a 17 to 20 %
gain of UE4M4 (arXiv 2605.14929); the perplexities of arXiv 2605.08565.
""", []
