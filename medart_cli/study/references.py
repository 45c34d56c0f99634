"""The works that methods.md may cite, and their numbers in the order of use."""

import re

CITED = re.compile(r"\[@([a-z0-9,-]+)\]")
REFERENCES = {
    "adafactor": "Shazeer N, Stern M. Adafactor: adaptive learning rates with sublinear memory "
    "cost. ICML 2018. arXiv:1804.04235.",
    "adamw": "Loshchilov I, Hutter F. Decoupled weight decay regularization. ICLR 2019. "
    "arXiv:1711.05101.",
    "adamw8bit": "Dettmers T, Lewis M, Shleifer S, Zettlemoyer L. 8-bit optimizers via block-wise "
    "quantization. ICLR 2022. arXiv:2110.02861.",
    "card": "Zamzmi G, Subbaswamy A, Sizikova E, Margerrison E, Delfino J, Badano A. Scorecard "
    "for synthetic medical data evaluation. Communications Engineering 2025;4:130. "
    "doi:10.1038/s44172-025-00450-1.",
    "cleanfid": "Parmar G, Zhang R, Zhu JY. On aliased resizing and surprising subtleties in GAN "
    "evaluation. CVPR 2022. arXiv:2104.11222.",
    "ddpm": "Ho J, Jain A, Abbeel P. Denoising diffusion probabilistic models. NeurIPS 2020. "
    "arXiv:2006.11239.",
    "cochran": "Cochran WG. Approximate significance levels of the Behrens-Fisher test. "
    "Biometrics 1964;20:191-195.",
    "dinov2": "Oquab M, Darcet T, Moutakanni T, et al. DINOv2: learning robust visual features "
    "without supervision. TMLR 2024. arXiv:2304.07193.",
    "dora": "Liu SY, Wang CY, Yin H, et al. DoRA: weight-decomposed low-rank adaptation. "
    "ICML 2024. arXiv:2402.09353.",
    "efficientnet": "Tan M, Le QV. EfficientNet: rethinking model scaling for convolutional neural "
    "networks. ICML 2019. arXiv:1905.11946.",
    "energy": "Székely GJ, Rizzo ML. Energy statistics: a class of statistics based on distances. "
    "Journal of Statistical Planning and Inference 2013;143:1249-1272.",
    "fedpara": "Hyeon-Woo N, Ye-Bin M, Oh TH. FedPara: low-rank Hadamard product for "
    "communication-efficient federated learning. ICLR 2022. arXiv:2108.06098.",
    "fid": "Heusel M, Ramsauer H, Unterthiner T, Nessler B, Hochreiter S. GANs trained by a two "
    "time-scale update rule converge to a local Nash equilibrium. NeurIPS 2017. arXiv:1706.08500.",
    "flow": "Lipman Y, Chen RTQ, Ben-Hamu H, Nickel M, Le M. Flow matching for generative "
    "modeling. ICLR 2023. arXiv:2210.02747.",
    "guidance": "Ho J, Salimans T. Classifier-free diffusion guidance. 2022. arXiv:2207.12598.",
    "kid": "Bińkowski M, Sutherland DJ, Arbel M, Gretton A. Demystifying MMD GANs. ICLR 2018. "
    "arXiv:1801.01401.",
    "klein": "Black Forest Labs. FLUX.2 [TO DO: cite the model card of the base in the version "
    "that was used].",
    "lion": "Chen X, Liang C, Huang D, et al. Symbolic discovery of optimization algorithms. "
    "NeurIPS 2023. arXiv:2302.06675.",
    "lora": "Hu EJ, Shen Y, Wallis P, et al. LoRA: low-rank adaptation of large language models. "
    "ICLR 2022. arXiv:2106.09685.",
    "lycoris": "Yeh SY, Hsieh YG, Gao Z, Yang BBW, Oh G, Gong Y. Navigating text-to-image "
    "customization: from LyCORIS fine-tuning to model evaluation. ICLR 2024. arXiv:2309.14859.",
    "medart": "Guo C, Christensen AN, Hannemose MR. Med-Art: diffusion transformer for 2D medical "
    "text-to-image generation. DGM4MICCAI 2025. arXiv:2506.20449.",
    "minsnr": "Hang T, Gu S, Li C, et al. Efficient diffusion training via min-SNR weighting "
    "strategy. ICCV 2023. arXiv:2303.09556.",
    "moonlight": "Liu J, Su J, Yao X, et al. Muon is scalable for LLM training. 2025. "
    "arXiv:2502.16982.",
    "muon": "Jordan K, Jin Y, Boza V, et al. Muon: an optimizer for hidden layers in neural "
    "networks. 2024. kellerjordan.github.io/posts/muon.",
    "pixart": "Chen J, Yu J, Ge C, et al. PixArt-α: fast training of diffusion transformer for "
    "photorealistic text-to-image synthesis. ICLR 2024. arXiv:2310.00426.",
    "prodigy": "Mishchenko K, Defazio A. Prodigy: an expeditiously adaptive parameter-free "
    "learner. ICML 2024. arXiv:2306.06101.",
    "prx": "Photoroom. PRX: open text-to-image generative model. 2025 [TO DO: cite the model card "
    "of the base in the version that was used].",
    "recall": "Kynkäänniemi T, Karras T, Laine S, Lehtinen J, Aila T. Improved precision and "
    "recall metric for assessing generative models. NeurIPS 2019. arXiv:1904.06991.",
    "rslora": "Kalajdzievski D. A rank stabilization scaling factor for fine-tuning with LoRA. "
    "2023. arXiv:2312.03732.",
    "sana": "Xie E, Chen J, Chen J, et al. SANA: efficient high-resolution image synthesis with "
    "linear diffusion transformers. ICLR 2025. arXiv:2410.10629.",
    "score": "Gneiting T, Raftery AE. Strictly proper scoring rules, prediction, and estimation. "
    "Journal of the American Statistical Association 2007;102:359-378.",
    "sigma": "Chen J, Ge C, Xie E, et al. PixArt-Σ: weak-to-strong training of diffusion "
    "transformer for 4K text-to-image generation. ECCV 2024. arXiv:2403.04692.",
    "solver": "Lu C, Zhou Y, Bao F, Chen J, Li C, Zhu J. DPM-Solver++: fast solver for guided "
    "sampling of diffusion probabilistic models. Machine Intelligence Research 2025;22:730-751. "
    "arXiv:2211.01095.",
    "vendi": "Friedman D, Dieng AB. The Vendi score: a diversity evaluation metric for machine "
    "learning. TMLR 2023. arXiv:2210.02410.",
}


def number_references(text: str) -> str:
    """Put a number in the place of each mark, in the order of first use, and add the list.

    Raises:
        KeyError: A mark names no reference.
    """
    keys = list(dict.fromkeys(key for mark in CITED.findall(text) for key in mark.split(",")))

    def number(mark: re.Match[str]) -> str:
        return f"[{', '.join(str(1 + keys.index(key)) for key in mark[1].split(','))}]"

    lines = [f"{place}. {REFERENCES[key]}" for place, key in enumerate(keys, 1)]
    return "\n".join([CITED.sub(number, text), "", "## References", "", *lines, ""])
