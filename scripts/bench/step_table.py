"""The step bench's table, ratios and goals."""

import statistics

# Ratios of images/s that are to be reached, by device: (numerator, denominator, least).
RATIOS = {
    "cuda": [
        ("distill", "PyTorch, eager", 1.25),
        ("distill", "PyTorch, compiled", 1.12),
        ("distill, options", "PyTorch, compiled", 1.7),
    ],
    "cpu": [("distill", "PyTorch, eager", 1.1)],
}
LEAST_MFU = 0.86
TIMES = ("step_ms", "teacher_ms", "optimizer_ms", "data_wait_ms", "communication_ms")


def summary(rounds):
    """Medians over a contender's rounds; of the rounds that gave figures."""
    measured = [figures for figures in rounds if "images_per_s" in figures]
    if not measured:
        return {**rounds[-1], "rounds": rounds}
    speeds = [figures["images_per_s"] for figures in measured]
    names = [student["name"] for student in measured[0]["students"]]
    summed = {
        **measured[-1],
        "images_per_s": statistics.median(speeds),
        "lowest": min(speeds),
        "highest": max(speeds),
        "peak_memory_bytes": max(figures["peak_memory_bytes"] or 0 for figures in measured) or None,
        "students": [
            student_summary(name, [figures["students"][place] for figures in measured])
            for place, name in enumerate(names)
        ],
        "rounds": rounds,
    }
    for key in TIMES:
        summed[key] = statistics.median(figures.get(key) or 0.0 for figures in measured)
    return summed


def student_summary(name, rounds):
    keys = ("forward_ms", "backward_ms", "loss")
    return {"name": name, **{key: statistics.median(each[key] for each in rounds) for key in keys}}


def add_mfu(contenders):
    """The peak that ours knows is everybody's: it is the same device."""
    peaks = [figures["peak"] for figures in contenders.values() if figures.get("peak")]
    for figures in contenders.values():
        if "images_per_s" in figures:
            figures["mfu"] = None
            if peaks:
                flops = figures["images_per_s"] * figures["flops_per_image"]
                figures["mfu"] = flops / peaks[0]["flops_per_s"]


def ratios(contenders, device):
    """Each pair's ratio of images/s with its goal; `ratio` is none where one was not measured."""
    found = []
    for above, below, least in RATIOS[device]:
        speeds = [contenders.get(name, {}).get("images_per_s") for name in (above, below)]
        ratio = speeds[0] / speeds[1] if all(speeds) else None
        goal = verdict(ratio, ratio is not None and ratio >= least)
        batches = [contenders.get(name, {}).get("batch_size") for name in (above, below)]
        if ratio is not None and batches[0] != batches[1]:
            goal += f", but at batch {batches[0]} against {batches[1]}"
        found.append({"of": above, "over": below, "ratio": ratio, "goal": least, "verdict": goal})
    return found


def other_goals(contenders, device):
    """Memory on the CPU, use of the device's peak on a GPU."""
    if device == "cpu":
        names = ("distill", "PyTorch, eager")
        held = [contenders.get(name, {}).get("peak_memory_bytes") for name in names]
        ratio = held[0] / held[1] if all(held) else None
        met = verdict(ratio, ratio is not None and ratio <= 1)
        text = "memory of distill / PyTorch, eager"
        return [{"what": text, "value": ratio, "goal": 1, "at_most": True, "verdict": met}]
    name = "distill, options"
    mfu = contenders.get(name, {}).get("mfu")
    met = verdict(mfu, mfu is not None and mfu >= LEAST_MFU)
    return [{"what": f"MFU of {name}", "value": mfu, "goal": LEAST_MFU, "verdict": met}]


def verdict(value, met):
    if value is None:
        return "not measured"
    return "met" if met else "not met"


def loss_differences(contenders):
    """How far each contender's last losses are from those of ours: the largest relative difference
    over the students. Same recipe and steps, other draws."""
    ours = contenders.get("distill", {})
    if "images_per_s" not in ours:
        return {}
    differences = {}
    for name, figures in contenders.items():
        if name == "distill" or "images_per_s" not in figures:
            continue
        pairs = zip(ours["students"], figures["students"])
        differences[name] = max(abs(a["loss"] - b["loss"]) / abs(a["loss"]) for a, b in pairs)
    return differences


def show_table(contenders):
    width = max(len(name) for name in contenders)
    print(
        f"{'':<{width}} {'batch':>5} {'images/s':>9} {'lowest–highest':>17} {'step':>9} {'teacher':>9}"
        f" {'students':>9} {'AdamW':>8} {'data':>7} {'MFU':>6} {'memory':>9}"
    )
    for name, figures in contenders.items():
        print(f"{name:<{width}} {row(figures)}")


def row(figures):
    if "images_per_s" not in figures:
        return f"{figures['batch_size']:>5} " + (
            "out of memory" if figures.get("out_of_memory") else figures["failed"]
        )
    students = sum(each["forward_ms"] + each["backward_ms"] for each in figures["students"])
    mfu = "–" if figures.get("mfu") is None else f"{figures['mfu']:.1%}"
    span = f"{figures['lowest']:.1f}–{figures['highest']:.1f}"
    return (
        f"{figures['batch_size']:>5} {figures['images_per_s']:>9.1f} {span:>17}"
        f" {figures['step_ms']:>6.1f} ms {figures['teacher_ms']:>6.1f} ms {students:>6.1f} ms"
        f" {figures['optimizer_ms']:>5.1f} ms {figures['data_wait_ms']:>4.1f} ms {mfu:>6}"
        f" {gigabytes(figures):>9}"
    )


def gigabytes(figures):
    held = figures["peak_memory_bytes"]
    return "–" if held is None else f"{held / 1e9:.2f} GB"


def show_goals(result):
    print()
    for each in result["ratios"]:
        name = f"{each['of']} / {each['over']}"
        value = "" if each["ratio"] is None else f"{each['ratio']:.2f} ×, "
        print(f"{name}: {value}goal {each['goal']:g} ×: {each['verdict']}")
    for each in result["other_goals"]:
        value = "" if each["value"] is None else f"{each['value']:.2f}, "
        bound = "at most" if each.get("at_most") else "at least"
        print(f"{each['what']}: {value}goal {bound} {each['goal']:g}: {each['verdict']}")
    ours = result["contenders"].get("distill", {}).get("batch_size")
    for name, figures in result["contenders"].items():
        if figures["batch_size"] != ours:
            print(f"{name} was measured at batch {figures['batch_size']}: {ours} do not fit")
    for name, difference in result["loss_differences"].items():
        print(f"losses after the same steps from other draws, {name}: {difference:.1%} from distill's")
