import pytest
import torch
from torch.nn.functional import linear

from bncap.chunked_cross_entropy import IGNORED, chunked_cross_entropy
from bncap.losses import caption_nll

B, T, D, V = 3, 6, 8, 23


def inputs(dtype=torch.float32, bias=True):
    generator = torch.Generator().manual_seed(4)
    states = torch.randn(B, T, D, generator=generator, dtype=dtype, requires_grad=True)
    weight = torch.randn(V, D, generator=generator, dtype=dtype, requires_grad=True)
    offset = torch.randn(V, generator=generator, dtype=dtype, requires_grad=True) if bias else None
    labels = torch.randint(V, (B, T), generator=generator)
    labels[0, 2:] = labels[1, 5:] = IGNORED
    return states, weight, offset, labels


def fused(states, weight, bias, labels, **options):
    return chunked_cross_entropy(states.flatten(0, 1), weight, bias, labels.flatten(), **options)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("rows", [1, 4, 13, 100], ids="a chunk of {} tokens".format)
def test_value_and_gradients_are_those_of_the_logits_whole(rows, bias):
    states, weight, offset, labels = inputs(bias=bias)
    wanted = [t for t in (states, weight, offset) if t is not None]
    expected = caption_nll(linear(states, weight, offset), labels)
    found = fused(states, weight, offset, labels, buffer=4 * V * rows)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=0)
    pairs = zip(torch.autograd.grad(3 * found, wanted), torch.autograd.grad(3 * expected, wanted), strict=True)
    for gradient, plain in pairs:
        torch.testing.assert_close(gradient, plain, rtol=1e-5, atol=1e-6)


def test_the_sum_is_the_mean_times_the_real_tokens():
    states, weight, bias, labels = inputs()
    tokens = labels.ne(IGNORED).sum()
    torch.testing.assert_close(
        fused(states, weight, bias, labels, reduction="sum"), tokens * fused(states, weight, bias, labels)
    )


def test_an_embedding_that_is_the_output_layer_gets_both_gradients():
    states, weight, _, labels = inputs()
    words = labels.clamp(min=0)

    def gradient(nll):
        return torch.autograd.grad(nll(states + torch.nn.functional.embedding(words, weight)), weight)[0]

    expected = gradient(lambda h: caption_nll(linear(h, weight), labels))
    torch.testing.assert_close(gradient(lambda h: fused(h, weight, None, labels)), expected, rtol=1e-5, atol=1e-6)


def test_no_tensor_is_larger_than_the_buffer_or_what_goes_in():
    states, weight, bias, labels = inputs()
    largest = []

    class Sizes(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            found = function(*args, **(kwargs or {}))
            largest.append(found.numel() if isinstance(found, torch.Tensor) else 0)
            return found

    with Sizes():
        fused(states, weight, bias, labels, buffer=4 * V * 2).backward()
    assert max(largest) == weight.numel() < labels.ne(IGNORED).sum() * V


def test_autocast_rounds_the_products_and_nothing_else():
    states, weight, bias, labels = inputs()
    rounded = [t.detach().bfloat16().float().requires_grad_() for t in (states, weight)]
    logits = linear(*rounded).bfloat16().float() + bias
    expected = caption_nll(logits, labels)
    with torch.autocast("cpu", torch.bfloat16):
        found = fused(states, weight, bias, labels)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)
    pairs = zip(torch.autograd.grad(found, (states, weight)), torch.autograd.grad(expected, rounded), strict=True)
    for gradient, plain in pairs:
        assert gradient.dtype == torch.float32
        torch.testing.assert_close(gradient, plain, rtol=2e-2, atol=2e-3)


def test_a_scale_beyond_float16_does_not_reach_the_products():
    """As with a scaler: the products of float16 would overflow, were the scale among them."""
    states, weight, bias, labels = inputs()
    with torch.autocast("cpu", torch.float16):
        plain, scaled = (fused(states, weight, bias, labels) for _ in range(2))
    one = torch.autograd.grad(plain, (states, weight, bias))
    for gradient, expected in zip(torch.autograd.grad(scaled * 2.0**24, (states, weight, bias)), one, strict=True):
        torch.testing.assert_close(gradient, expected * 2.0**24)


def test_labels_without_a_real_token_and_wrong_shapes_are_refused():
    states, weight, bias, labels = inputs()
    with pytest.raises(ValueError, match="no label differs from ignore_index = -100"):
        fused(states, weight, bias, torch.full_like(labels, IGNORED))
    with pytest.raises(ValueError, match=r"needs states \(N, D\), weight \(V, D\) and labels \(N,\)"):
        chunked_cross_entropy(states, weight, bias, labels)
    with pytest.raises(ValueError, match="reduction"):
        fused(states, weight, bias, labels, reduction="none")


def test_gradients_are_given_out_once():
    states, weight, bias, labels = inputs()
    nll = fused(states, weight, bias, labels)
    nll.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="given out before"):
        nll.backward()
