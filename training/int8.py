"""What int8 needs to know of the activations: how large each channel gets.

A few channels are many times larger than the others and would set the scale of the whole row. Each channel is divided by its
usual size and the weights take the factor back (SmoothQuant, Xiao et al. 2022). The factors are measured once, when a model is
shipped, and kept in the int8 file, so that int8 too can be made again without a text.
"""
import torch

STRENGTH = 0.6
KINDS = ('qkv', 'up')  # those that read hidden states


def measure(model, batches):
    """name.smooth: what each input channel of the linear layers is multiplied by, from batches of (ids, mask, …)."""
    largest, real = {}, None

    def watch(name):
        def hook(_, inputs, __):
            seen = inputs[0][real].abs().amax(0)
            largest[name] = torch.maximum(largest.get(name, seen), seen)
        return hook

    groups = {'layers': model.layers, 'heads': getattr(model, 'heads', ())}
    linears = {f'{group}.{i}.{kind}': getattr(part, kind) for group, parts in groups.items() for i, part in enumerate(parts)
               for kind in KINDS if hasattr(part, kind)}
    hooks = [linear.register_forward_hook(watch(name)) for name, linear in linears.items()]
    with torch.no_grad():
        for batch in batches:
            real = batch[1].bool()
            model(*batch)
    for hook in hooks:
        hook.remove()
    smooth = {}
    for name, linear in linears.items():
        factor = largest[name].clamp_min(1e-4) ** STRENGTH / linear.weight.abs().amax(0).clamp_min(1e-6) ** (1 - STRENGTH)
        smooth[name + '.smooth'] = (factor.mean() / factor).detach().float().cpu()
    return smooth
