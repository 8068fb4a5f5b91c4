"""What is no tensor, no number or of another dtype ends in one sentence of ours that helps."""

import re

import numpy as np
import pytest
import torch

from ops.neighborhood import HeadGroup, neighborhood_attention_2d
from stylenat.export import load_generator, save_discriminator, save_generator
from stylenat.models import (
    IMAGENET,
    Discriminator,
    DiscriminatorConfig,
    DiscriminatorLevel,
    GeneratorConfig,
    LevelConfig,
    Windows,
    deal_heads,
    from_uint8,
    to_uint8,
)
from stylenat.sampling import (
    check_sheet,
    contact_sheet,
    generate,
    latents,
    load_model,
    parse_seeds,
    save_png,
)
from tests.sampling.tiny import CONFIG, tiny_generator

G = tiny_generator()
D = Discriminator(DiscriminatorConfig(levels=(DiscriminatorLevel(4, 8), DiscriminatorLevel(8, 8))))
Z = torch.zeros(2, 8)
WS = torch.zeros(2, 3, 8)
IMAGES = torch.zeros(2, 3, 16, 16)
Q = torch.zeros(1, 7, 7, 2, 8)
GROUPS = [HeadGroup(2, 3)]


def attend(q=Q, k=Q, v=Q, groups=GROUPS, rpb=None, **settings):
    return neighborhood_attention_2d(q, k, v, groups, rpb, **settings)


NUMPY = r"must be a torch\.Tensor, not numpy\.ndarray; torch\.from_numpy"
CASES = {
    "two kernel sizes": (
        lambda: HeadGroup(2, (3, 5)),
        r"kernel_size must be a whole number: \(3, 5",
    ),
    "half heads": (lambda: HeadGroup(2.0, 3), "heads must be a whole number: 2.0"),
    "no dilation": (lambda: HeadGroup(2, 3, None), "dilation must be a whole number: None"),
    "a bool": (lambda: HeadGroup(True, 3), "heads must be a whole number: True"),
    "text": (lambda: HeadGroup(2, "3"), "kernel_size must be a whole number: '3'"),
    "a tensor": (lambda: HeadGroup(2, torch.tensor(3)), "kernel_size must be a whole number"),
    "q of numpy": (lambda: attend(q=Q.numpy()), f"q {NUMPY}"),
    "v of numpy": (lambda: attend(v=Q.numpy()), f"v {NUMPY}"),
    "k a list": (lambda: attend(k=[1]), r"k must be a torch\.Tensor, not list"),
    "groups of tuples": (
        lambda: attend(groups=[(2, 3, 1)]),
        r"groups\[0\] must be a HeadGroup, not t",
    ),
    "one group": (
        lambda: attend(groups=HeadGroup(2, 3)),
        "groups must be a list or tuple of HeadGr",
    ),
    "groups None": (lambda: attend(groups=None), "groups must be a list or tuple .*NoneType"),
    "one table": (lambda: attend(rpb=torch.zeros(1, 2, 5, 5)), "rpb must be a list of tables"),
    "tables of numpy": (lambda: attend(rpb=[np.zeros((2, 5, 5))]), rf"rpb\[0\] {NUMPY}"),
    "scale as text": (lambda: attend(scale="1"), "scale must be a number: '1'"),
    "scale as tensor": (lambda: attend(scale=torch.ones(())), "scale must be a number: tensor"),
    "backend None": (lambda: attend(backend=None), "unknown attention backend 'None'"),
    "backend a list": (lambda: attend(backend=["cpu"]), "unknown attention backend"),
    "z of numpy": (lambda: G(Z.numpy()), f"z {NUMPY}"),
    "z a list": (lambda: G([[0.0] * 8]), r"z must be a torch\.Tensor, not list"),
    "z double": (
        lambda: G(Z.double()),
        r"one dtype: torch\.float64 and torch\.float32; use z\.float",
    ),
    "z whole": (
        lambda: G(Z.long()),
        r"one dtype: torch\.int64 and torch\.float32; use z\.float\(\)",
    ),
    "z half": (lambda: G.mapping(Z.half()), r"torch\.float16 and torch\.float32; use z\.float\(\)"),
    "z elsewhere": (lambda: G(Z.to("meta")), r"one device: meta and cpu; use z\.to\('cpu'\)"),
    "z for a bfloat16": (
        lambda: tiny_generator().bfloat16()(Z),
        r"torch\.float32 and torch\.bfloat16; use z\.to\(torch\.bfloat16\)",
    ),
    "psi None": (lambda: G(Z, truncation_psi=None), "truncation_psi must be a number: None"),
    "psi tensor": (lambda: G(Z, truncation_psi=torch.ones(())), "truncation_psi must be a number"),
    "psi text": (lambda: G(Z, truncation_psi="0.7"), "truncation_psi must be a number: '0.7'"),
    "psi bool": (lambda: G(Z, truncation_psi=True), "truncation_psi must be a number: True"),
    "cutoff": (
        lambda: G(Z, truncation_cutoff=2.5),
        "truncation_cutoff must be a whole number: 2.5",
    ),
    "cutoff bool": (lambda: G(Z, truncation_cutoff=True), "truncation_cutoff must be a whole"),
    "ws of numpy": (lambda: G.synthesis(WS.numpy()), f"ws {NUMPY}"),
    "ws double": (lambda: G.synthesis(WS.double()), r"use ws\.float\(\)"),
    "ws elsewhere": (lambda: G.synthesis(WS.to("meta")), r"use ws\.to\('cpu'\)"),
    "to_uint8": (lambda: G.to_uint8(IMAGES.numpy()), f"images {NUMPY}"),
    "from_uint8": (lambda: G.from_uint8(np.zeros((1, 2, 2, 3), np.uint8)), f"pixels {NUMPY}"),
    "to_uint8 alone": (
        lambda: to_uint8(None, IMAGENET),
        r"images must be a torch\.Tensor, not None",
    ),
    "from_uint8 alone": (lambda: from_uint8([0], IMAGENET), r"pixels must be a torch\.Tensor"),
    "D of numpy": (lambda: D(IMAGES.numpy()), f"images {NUMPY}"),
    "D double": (lambda: D(IMAGES.double()), r"float64 and torch\.float32; use images\.float\(\)"),
    "D pixels": (lambda: D(IMAGES.byte()), r"uint8 and torch\.float32; use images\.float\(\)"),
    "D elsewhere": (lambda: D(IMAGES.to("meta")), r"one device: meta and cpu; use images\.to"),
    "level": (lambda: LevelConfig(4, 8.0, 2, "global"), "channels must be a whole number: 8.0"),
    "level's heads": (lambda: LevelConfig(4, 8, None, "global"), "heads must be a whole number"),
    "level of D": (lambda: DiscriminatorLevel(4, "8"), "channels must be a whole number: '8'"),
    "windows": (lambda: Windows(4.0), "window_size must be a whole number: 4.0"),
    "z_dim": (lambda: GeneratorConfig(CONFIG.levels, z_dim=8.0), "z_dim must be a whole number"),
    "mlp_ratio": (lambda: GeneratorConfig(CONFIG.levels, mlp_ratio="4"), "mlp_ratio must be a num"),
    "levels": (lambda: GeneratorConfig(4), "levels must be a tuple of LevelConfig, not int"),
    "levels of D": (
        lambda: DiscriminatorConfig((4, 8)),
        r"levels\[0\] must be a DiscriminatorLevel",
    ),
    "dealt heads": (lambda: deal_heads(2.5, [3], [1]), "heads must be a whole number: 2.5"),
    "dealt kernels": (lambda: deal_heads(2, 3, [1]), "kernel_sizes must be a list of whole numb"),
    "half a seed": (lambda: latents([0.5], 8), "a seed must be a whole number: 0.5"),
    "true as seed": (lambda: latents([True], 8), "a seed must be a whole number: True"),
    "one seed": (lambda: latents(3, 8), "seeds must be a list of whole numbers, not int: 3"),
    "seeds as text": (lambda: latents("12", 8), "seeds must be a list of whole numbers, not str"),
    "half a dim": (lambda: latents([0], 8.5), "z_dim must be a whole number: 8.5"),
    "scheme": (lambda: latents([0], 8, scheme=None), "the seed scheme must be one of .*: None"),
    "seed too large": (lambda: next(generate(G, [1, 2**63])), "seeds of scheme torch must be"),
    "seeds in numbers": (lambda: parse_seeds([0, 1]), "seeds as text must look like .* not list"),
    "batch": (lambda: next(generate(G, [0], batch=1.5)), "the batch must be a whole number: 1.5"),
    "dtype": (lambda: next(generate(G, [0], dtype="float32")), "the dtype must be one of torch"),
    "sheet": (lambda: contact_sheet(np.zeros((1, 2, 2, 3)), 1), f"images {NUMPY}"),
    "sheet's size": (lambda: check_sheet(2.0, 1), "a contact sheet's columns must be a whole"),
    "png of floats": (
        lambda: save_png(torch.zeros(2, 2, 3), "x"),
        r"an image must be uint8 \[H, W, 3",
    ),
    "path": (lambda: load_generator(None), r"a path must be text or a pathlib\.Path: None"),
    "model's path": (lambda: load_model(3), r"a path must be text or a pathlib\.Path: 3"),
    "device": (lambda: load_generator("x", "tpu9"), "unknown device 'tpu9': use cpu, cuda"),
    "model's device": (lambda: load_model("x", "gpu"), "unknown device 'gpu'"),
    "save D as G": (lambda: save_generator(D, "x"), r"a generator must be saved as such, not styl"),
    "save G as D": (lambda: save_discriminator(G, "x"), r"a discriminator must be saved as such"),
}


@pytest.mark.parametrize("case", CASES)
def test_what_is_of_another_type_is_one_sentence(case):
    call, sentence = CASES[case]
    with pytest.raises(ValueError, match=sentence) as refusal:
        call()
    assert "\n" not in str(refusal.value)


def test_numpy_s_numbers_are_numbers_and_become_ints():
    group = HeadGroup(np.int64(2), np.int32(3), np.uint8(1))
    assert group == HeadGroup(2, 3, 1)
    assert {type(group.heads), type(group.kernel_size), type(group.dilation)} == {int}
    level = LevelConfig(np.int64(4), np.int64(8), np.int64(2), "global", np.int64(1))
    assert type(level.channels) is int
    assert torch.equal(latents(np.arange(3), 8), latents([0, 1, 2], 8))
    assert torch.equal(latents([np.uint8(3)], np.int64(8)), latents([3], 8))
    for psi in (np.float32(0.5), np.float64(0.5)):
        assert torch.equal(
            G(Z, truncation_psi=psi, truncation_cutoff=np.int64(2)),
            G(Z, truncation_psi=0.5, truncation_cutoff=2),
        )
    assert torch.equal(attend(scale=np.float32(0.5)), attend(scale=0.5))


def test_a_list_of_levels_is_a_tuple_from_then_on():
    assert GeneratorConfig(list(CONFIG.levels), z_dim=8, style_dim=8, mapping_layers=2) == CONFIG


def test_a_compiled_generator_is_saved_as_itself(tmp_path):
    save_generator(torch.compile(G), tmp_path / "x")
    assert torch.equal(load_generator(tmp_path / "x").const, G.const)
    with pytest.raises(ValueError, match=re.escape("DataParallel; give its .module")):
        save_generator(torch.nn.DataParallel(G), tmp_path / "x")


def test_autocast_lets_a_discriminator_take_other_precisions():
    with torch.autocast("cpu", torch.bfloat16):
        assert D(IMAGES.bfloat16()).shape == (2, 1)
        with pytest.raises(ValueError, match=r"float64 and torch\.float32"):
            D(IMAGES.double())


@pytest.mark.parametrize("psi", [0.5, 0.7])
def test_the_checks_are_no_break_and_no_node_of_a_compiled_graph(psi):
    torch.compiler.reset()
    nodes = []

    def keep(graph, inputs):
        nodes.append([node.op for node in graph.graph.nodes])
        return graph

    compiled = torch.compile(lambda z: G(z, truncation_psi=psi), fullgraph=True, backend=keep)
    with torch.no_grad():
        torch.testing.assert_close(compiled(Z), G(Z, truncation_psi=psi))
        images = torch.compile(D.eval(), fullgraph=True, backend=keep)(IMAGES)
    assert images.shape == (2, 1)
    assert len(nodes) == 2
