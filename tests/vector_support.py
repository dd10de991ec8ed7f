"""The test vectors' cases, and what PyTorch's autograd says of them: the equations as a loop over tensors."""

import json
from pathlib import Path

import numpy as np

FOLDER = Path(__file__).parent.parent / "vectors"
FILES = sorted(FOLDER.glob("[0-9]*.json"))


def cases(*kinds):
    """Every case of these kinds, and its name for pytest."""
    for path in FILES:
        for case in json.loads(path.read_text(encoding="utf-8"))["cases"]:
            if case["kind"] in kinds:
                yield f"{path.stem}-{case['name']}", case


def numbers(value, dtype="float64"):
    """The same with arrays for lists of numbers; those that are no integers are of this dtype."""
    if isinstance(value, dict):
        return {name: numbers(part, dtype) for name, part in value.items()}
    if not isinstance(value, list) or _holds_dicts(value):
        return [numbers(part, dtype) for part in value] if isinstance(value, list) else value
    array = np.array(value)
    return array.astype(dtype) if array.dtype.kind == "f" else array


def leaves(value, path=""):
    """Every number and array, by where it is."""
    if isinstance(value, dict | list) and not (isinstance(value, list) and not _holds_dicts(value)):
        for name, part in value.items() if isinstance(value, dict) else enumerate(value):
            yield from leaves(part, f"{path}/{name}")
    else:
        yield path, value


def _holds_dicts(value):
    return bool(value) and isinstance(value[0], dict)


def torch_sweeps(torch, case):
    """What a case's forward and backward must be: a graph for each window, and the sums over them.

    The graph is of the equations in docs/bptt.md; autograd keeps what arrives at each of their values.
    """
    T = case["sizes"]["T"]
    windows = [(1, T, None)]
    if "tbptt" in case:  # losses since the boundary before, within the last k2 steps; k2 uses
        k1, k2 = case["tbptt"]["k1"], case["tbptt"]["k2"]
        ends = [*range(k1, T, k1), T]
        windows = [
            (max(before + 1, end - k2 + 1), end, max(1, end - k2 + 1))
            for before, end in zip([0, *ends], ends, strict=False)
        ]
    return [_Graph(torch, case, *window) for window in windows]


class _Graph:
    """A case's network; the losses of the steps first to last go back, and no further than to `begin`."""

    def __init__(self, torch, case, first, last, begin):
        self.torch, self.case, given = torch, case, numbers(case["given"])
        sizes, self.options = case["sizes"], case["options"]
        self.T, self.B, self.H = sizes["T"], sizes["B"], sizes["H"]
        self.parameters = {name: self.leaf(a) for name, a in given["parameters"].items()}
        x = given["x"] if given["x"].ndim == 3 else np.eye(sizes["D"])[given["x"]]
        self.x = self.leaf(x)
        T_b = torch.tensor(given.get("lengths", np.full(self.B, self.T)))
        self.has = [(T_b > t)[:, None] for t in range(self.T)]
        xi = given.get("xi", np.ones((self.T, self.B)))
        if begin is not None and begin > 1:
            xi = np.array(xi)
            xi[begin - 1] = 0
        self.xi = torch.tensor(xi)
        L, K = sizes["L"], sizes["K"]
        zero = {"h": np.zeros((L * K, self.B, sizes["P"])), "c": np.zeros((L * K, self.B, self.H))}
        self.state = {part: self.leaf(given.get("state", zero)[part]) for part in ("h", "c")[: self.parts]}
        self.runs, finals, xs = [], [], list(self.x)
        for layer in range(L):
            outputs = []
            for end in ("", "_reverse")[:K]:
                run = self.run(f"_l{layer}{end}", xs)
                self.runs.append(run)
                finals.append(run["final"])
                outputs.append(run["output"])
            output = [torch.cat(of_step, dim=1) for of_step in zip(*outputs, strict=True)]
            xs = output
            if layer + 1 < L and "dropout_mask" in given:
                xs = [a * torch.tensor(m) for a, m in zip(output, given["dropout_mask"][layer], strict=True)]
        self.output = torch.stack(output)
        self.final = {
            part: torch.stack([f[i] for f in finals]) for i, part in enumerate(("h", "c")[: self.parts])
        }
        self.total = self.loss(given, first, last) if "loss" in case else self.upstream(given)
        self.total.backward()

    @property
    def parts(self):
        return 2 if self.case["cell"] == "lstm" else 1

    def leaf(self, array):
        return self.torch.tensor(np.asarray(array, dtype=np.float64), requires_grad=True)

    def kept(self, tensor):
        """The same number; its gradient can be asked for."""
        tensor = tensor.clone()
        tensor.retain_grad()
        return tensor

    def run(self, name, xs):
        """One layer in one direction; lists of T tensors, by the names of the files."""
        theta = {n.removesuffix(name): a for n, a in self.parameters.items() if n.endswith(name)}
        found = {"name": name}
        index = len(self.runs)
        now = [part[index] for part in self.state.values()]
        times = range(self.T)[::-1] if name.endswith("_reverse") else range(self.T)
        for t in times:
            step = {}
            passed = [self.kept(s) for s in now]  # what arrives here is what step t sends
            step |= dict(zip(("to_h", "to_c"), passed, strict=False))
            step["dx"] = self.kept(xs[t])
            states = [_scaled(self.torch, s, self.xi[t][:, None]) for s in passed]
            h, *c = self.cell(theta, step, step["dx"], *states)
            step["dh"] = self.kept(h)  # what arrives here has been clipped
            after = [_clipped(self.torch, step["dh"], self.case.get("clip_hidden")), *c]
            now = [self.torch.where(self.has[t], a, b) for a, b in zip(after, now, strict=True)]
            step["dl"] = self.kept(after[0])
            step["output"] = self.torch.where(self.has[t], step["dl"], 0.0)
            for part, tensor in step.items():
                found.setdefault(part, [None] * self.T)[t] = tensor
        return found | {"final": now}

    def cell(self, theta, step, x, h, c=None):
        """h_t, or h_t and c_t; what lies on the way goes into `step`."""
        torch, options = self.torch, self.options
        kind, clip = self.case["cell"], options.get("clip")

        def z_of(part):
            bias = theta.get("bias_" + part, 0.0)
            return (x if part == "ih" else h) @ theta["weight_" + part].T + bias

        def put(name, tensor):
            step[name] = self.kept(tensor)
            return step[name]

        def limited(tensor):
            return tensor if clip is None else tensor.clamp(-clip, clip)

        def gates(**values):
            step.update(values)
            return values.values()

        if kind == "rnn":
            z = limited(put("dz", z_of("ih") + z_of("hh")))
            phi = options.get("nonlinearity", "tanh")
            return (z if phi == "identity" else getattr(torch, phi)(z),)
        if kind == "gru":
            r_x, z_x, n_x = z_of("ih").chunk(3, dim=1)
            r_h, z_h, n_h = z_of("hh").chunk(3, dim=1)
            r, z = gates(
                r=limited(put("dz_r", r_x + r_h)).sigmoid(), z=limited(put("dz_z", z_x + z_h)).sigmoid()
            )
            if options.get("reset_after", True):
                n = limited(put("dz_n", n_x + r * put("ds", n_h))).tanh()
            else:
                W_hn, b_hn = theta["weight_hh"].chunk(3)[2], theta["bias_hh"].chunk(3)[2]
                n = limited(put("dz_n", n_x + put("ds", r * h) @ W_hn.T + b_hn)).tanh()
            gates(n=n)
            return ((1 - z) * n + z * h,)
        coupled = options.get("coupled", False)
        z_i, *z_f, z_g, z_o = (z_of("ih") + z_of("hh")).chunk(3 if coupled else 4, dim=1)
        p_i, *p_f, p_o = theta.get("weight_peephole", torch.zeros((2 if coupled else 3, self.H)))
        i = limited(put("dz_i", z_i + p_i * c)).sigmoid()
        f = 1 - i if coupled else limited(put("dz_f", z_f[0] + p_f[0] * c)).sigmoid()
        g = limited(put("dz_g", z_g)).tanh()
        c = put("dc", f * c + i * g)
        o = limited(put("dz_o", z_o + p_o * c)).sigmoid()
        gates(i=i, f=f, g=g, o=o)
        m = o * limited(c).tanh()
        if "weight_hr" in theta:
            return put("dm", m) @ theta["weight_hr"].T, c
        return m, c

    def upstream(self, given):
        """The scalar whose derivatives are those given."""
        total = (self.output * self.torch.tensor(given["d_output"])).sum()
        for part, d in given.get("d_state", {}).items():
            total = total + (self.final[part] * self.torch.tensor(d)).sum()
        for run, d in zip(self.runs, given.get("d_cells", ()), strict=False):
            total = total + (self.torch.stack(run["dc"]) * self.torch.tensor(d)).sum()
        return total

    def loss(self, given, first, last):
        """The losses of the steps first to last, by PyTorch's functions; a mean is over all targets."""
        torch, loss = self.torch, self.case["loss"]
        h, y = self.output, torch.tensor(given["y"])
        counted = torch.stack(self.has)[:, :, 0]
        count = int(counted.sum()) if not loss["last_only"] else self.B
        if loss["last_only"]:
            K = self.case["sizes"]["K"]
            h, counted = torch.cat(list(self.final["h"][-K:]), dim=1), slice(None)
        else:
            counted[: first - 1] = counted[last:] = False
        self.o = self.kept(h @ self.parameters["output.weight"].T + self.parameters.get("output.bias", 0.0))
        function = getattr(torch.nn.functional, loss["kind"] + "_loss" * (loss["kind"] == "mse"))
        found = function(self.o[counted], y[counted], reduction="sum")
        count *= y.shape[-1] if loss["kind"] == "mse" else 1
        return found / count if loss["reduction"] == "mean" else found


def _scaled(torch, tensor, factor):
    """The same number, whose gradient is multiplied by factor."""
    tensor = tensor.clone()
    tensor.register_hook(lambda gradient: gradient * factor)
    return tensor


def _clipped(torch, tensor, clip):
    """The same number, whose gradient is clipped as clip_hidden says: PyTorch's clipping of each row."""
    if clip is None:
        return tensor

    def hook(gradient):
        if clip["by"] == "value":
            return gradient.clamp(-clip["limit"], clip["limit"])
        norm = gradient.norm(dim=1, keepdim=True)
        return torch.where(norm > clip["limit"], gradient * (clip["limit"] / norm), gradient)

    tensor = tensor.clone()
    tensor.register_hook(hook)
    return tensor
