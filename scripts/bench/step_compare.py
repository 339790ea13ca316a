"""The step of ours and of the PyTorch peer in turn, as a table with ratios and goals; ours alone with
its switches one by one; or the largest batch that fits. Run by scripts/bench/step."""

import argparse
import json
import pathlib
import signal
import sys

import data_processes
import step_runs
import step_table


def read_arguments():
    parser = argparse.ArgumentParser(prog="scripts/bench/step", description=__doc__)
    parser.add_argument("--config", required=True)
    parser.add_argument("--device", choices=["cuda", "cpu"])
    parser.add_argument("--program", required=True)
    parser.add_argument("--steps", type=positive, default=15)
    parser.add_argument("--warmup", type=positive, default=3)
    parser.add_argument("--rounds", type=positive, default=2)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--variants", help="eager,compiled", type=variants)
    parser.add_argument("--compile-scope", default="block")
    parser.add_argument("--compile-mode", default="default")
    parser.add_argument("--peak")
    parser.add_argument("--limit", type=int)
    parser.add_argument("--patience", type=int, default=60)
    parser.add_argument("--json", type=pathlib.Path)
    parser.add_argument("--levers", action="store_true")
    parser.add_argument("--largest-batch", action="store_true")
    parser.add_argument("--most", type=positive, default=1024)
    parser.add_argument("--grain", type=positive, default=8)
    return parser.parse_args()


def positive(text):
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"a whole number above 0 is needed, not {text}")
    return number


def variants(text):
    names = [name for name in text.split(",") if name]
    if unknown := set(names) - {"eager", "compiled"}:
        raise argparse.ArgumentTypeError(f"unknown variant {unknown.pop()}")
    return names


def in_turn(bench, contenders):
    """Every contender's figures, round for round, and a summary of each."""
    rounds = {contender.name: [] for contender in contenders}
    for number in range(bench.arguments.rounds):
        # In turn, so that what else the machine does meets all of them alike.
        for contender in contenders:
            earlier = rounds[contender.name]
            if earlier and not measured(earlier[-1]):
                continue  # It would fail again.
            figures = bench.turn(contender)
            if earlier and not measured(figures):
                continue  # For want of time: the earlier rounds stand.
            earlier.append(figures)
            done = f"{figures['images_per_s']:.1f} images/s" if measured(figures) else "no figures"
            bench.say(
                f"round {number + 1} of {bench.arguments.rounds}: {contender.name}: {done}"
                f" ({figures['whole_seconds']:.0f} s)"
            )
    summaries = {name: step_table.summary(figures) for name, figures in rounds.items()}
    step_table.add_mfu(summaries)
    return summaries


def measured(figures):
    return "images_per_s" in figures


def compare(bench):
    contenders = [bench.ours()]
    if bench.options:
        contenders.append(bench.ours("distill, options", bench.options))
    contenders += [bench.peer(variant) for variant in bench.arguments.variants]
    summaries = in_turn(bench, contenders)
    result = {
        "contenders": summaries,
        "ratios": step_table.ratios(summaries, bench.device),
        "other_goals": step_table.other_goals(summaries, bench.device),
        "loss_differences": step_table.loss_differences(summaries),
        "others_share": others_share(summaries),
    }
    show_heading(bench, summaries)
    step_table.show_table(summaries)
    step_table.show_goals(result)
    if bench.device == "cpu" and result["others_share"] > data_processes.DISTURBING_SHARE:
        share = f"{result['others_share']:.0%}"
        print(f"Other programs took up to {share} of the processors: figures are too low.")
    return result


def others_share(summaries):
    rounds = [figures for each in summaries.values() for figures in each["rounds"]]
    return max(figures.get("others_share", 0.0) for figures in rounds)


def levers(bench):
    """Ours as it stands, with each switch alone, and with all that make a step faster."""
    contenders = [bench.ours("none")]
    contenders += [bench.ours(lever.name, [lever]) for lever in bench.levers]
    if len(bench.options) > 1:
        contenders.append(bench.ours("all options", bench.options))
    summaries = in_turn(bench, contenders)
    show_heading(bench, summaries)
    step_table.show_table(summaries)
    return {"contenders": summaries}


def largest_batch(bench):
    """The largest batch of ours that fits, as it stands and with the options."""
    contenders = [bench.ours()]
    if bench.options:
        contenders.append(bench.ours("distill, options", bench.options))
    result = {}
    for contender in contenders:
        tried = {}

        def fits(batch, contender=contender, tried=tried):
            if not bench.has_time_for(contender):
                tried[batch] = {"failed": step_runs.NO_TIME}
            else:
                # The second step has AdamW's moments and all gradients beside the activations.
                tried[batch] = bench.run(contender, batch, steps=2, warmup=1)
            outcome = tried[batch]
            if "failed" in outcome:
                raise Untold(f"at batch {batch}: {outcome['failed']}")
            fitted = not outcome.get("out_of_memory")
            bench.say(f"{contender.name}: batch {batch} {'fits' if fitted else 'does not fit'}")
            return fitted

        try:
            arguments = bench.arguments
            found = step_runs.largest_batch(fits, bench.batch_size, arguments.most, arguments.grain)
            entry = {"batch_size": found}
            print(f"largest batch that fits, {contender.name}: {batch_line(found, tried, bench)}")
        except Untold as untold:
            fitting = [batch for batch, outcome in tried.items() if measured(outcome)]
            entry = {"at_least": max(fitting)} if fitting else {"failed": str(untold)}
            known = f"at least {max(fitting)}" if fitting else "unknown"
            print(f"largest batch that fits, {contender.name}: {known}; {untold}")
        result[contender.name] = {**entry, "tried": tried}
    return {"contenders": result}


class Untold(Exception):
    """Whether a batch fits could not be found out."""


def batch_line(found, tried, bench):
    if found == 0:
        return "not even one picture does"
    figures = tried[found]
    missed = [batch for batch, outcome in tried.items() if outcome.get("out_of_memory")]
    memory = step_table.gigabytes(figures)
    bound = f"{min(missed)} does not" if missed else f"no more were tried (--most {bench.arguments.most})"
    return f"{found} ({memory}, {figures['images_per_s']:.1f} images/s over two steps; {bound})"


def show_heading(bench, summaries):
    known = next((each for each in summaries.values() if measured(each)), {})
    print(
        f"\n{pathlib.Path(bench.arguments.config).name}, {known.get('precision', '?')},"
        f" {known.get('device_name', bench.device)}, {bench.arguments.steps} steps,"
        f" medians of {bench.arguments.rounds} round{'' if bench.arguments.rounds == 1 else 's'}"
    )


def stop(_signal, _frame):
    sys.exit("error: stopped")


def main():
    # Python would end at once, and leave a turn running.
    signal.signal(signal.SIGTERM, stop)
    arguments = read_arguments()
    device = arguments.device or ("cuda" if has_gpu() else "cpu")
    if arguments.variants is None:
        arguments.variants = ["eager", "compiled"] if device == "cuda" else ["eager"]
    if arguments.limit is None:
        arguments.limit = 570 if device == "cuda" else 0
    bench = step_runs.Bench(arguments, device)
    mode = levers if arguments.levers else largest_batch if arguments.largest_batch else compare
    result = {"config": arguments.config, "device": device, "settings": arguments.set, **mode(bench)}
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=2) + "\n")
    if any("failed" in figures for figures in result["contenders"].values()):
        sys.exit(1)


def has_gpu():
    return pathlib.Path("/dev/nvidiactl").exists()


if __name__ == "__main__":
    main()
