//! What the processes print, and what they are told.

use std::collections::BTreeMap;

use super::child::Plan;

/// Lines of several processes are never mixed, however they are written: in pieces, long, without
/// an end, with bytes that are no text; and each stream stays what it was.
#[test]
fn lines_stay_whole() {
    let script = r#"
        long=$(printf '%08000d' 0)
        number=0
        while [ $number -lt 200 ]; do
            printf 'a%s' $number; printf 'b%s\n' "$long"
            echo "e$number $RANK" >&2
            number=$((number + 1))
        done
        printf 'odd \377\376\n'; printf unfinished"#;
    let output = Plan::new(4, script).command().output().unwrap();
    let long = "0".repeat(8000);
    let mut next: BTreeMap<Vec<u8>, usize> = BTreeMap::new();
    let mut others = 0;
    for line in output.stdout.split(|byte| *byte == b'\n') {
        let Some(rest) = line.strip_prefix(b"[rank ") else { continue };
        let (rank, rest) = (rest[..1].to_vec(), &rest[3..]);
        if rest == b"odd \xff\xfe" || rest == b"unfinished" {
            others += 1;
            continue;
        }
        let number = next.entry(rank).or_default();
        assert_eq!(rest, format!("a{number}b{long}").as_bytes(), "a line in order and whole");
        *number += 1;
    }
    assert_eq!((next.len(), others), (4, 8));
    assert!(next.values().all(|lines| *lines == 200), "{next:?}");
    let stderr = String::from_utf8(output.stderr).unwrap();
    for rank in 0..4 {
        let lines =
            (0..200).filter(|number| stderr.contains(&format!("[rank {rank}] e{number} {rank}\n")));
        assert_eq!(lines.count(), 200);
    }
}

/// A launch goes on when nobody reads what it prints any more.
#[test]
fn a_closed_pipe_does_not_stop_the_processes() {
    let folder = tempfile::tempdir().unwrap();
    let done = folder.path().join("done");
    let script = format!(
        "echo ready; sleep 0.5; number=0
         while [ $number -lt 5000 ]; do echo line $number; number=$((number + 1)); done
         touch '{}'",
        done.display()
    );
    let mut child = Plan::new(1, &script).start();
    drop(child.stdout.take());
    child.wait().unwrap();
    assert!(done.exists());
}

/// The variables that a process is given: torchrun's, this launcher's mark, its GPU, its threads.
#[test]
fn each_process_is_told_its_place() {
    let script = "for name in RANK WORLD_SIZE LOCAL_RANK LOCAL_WORLD_SIZE MASTER_ADDR \
                  TORCHELASTIC_RUN_ID CUDA_VISIBLE_DEVICES OMP_NUM_THREADS; do
        eval echo $name is \\$$name; done; [ $DISTILL_LAUNCH = $PPID ] && echo marked";
    let told = |threads: Option<&str>| {
        let mut command = Plan::new(2, script).command();
        command.env("TORCHELASTIC_RUN_ID", "of another launcher").env_remove("OMP_NUM_THREADS");
        threads.map(|threads| command.env("OMP_NUM_THREADS", threads));
        String::from_utf8(command.output().unwrap().stdout).unwrap()
    };
    let all = told(None);
    for line in [
        "[rank 0] RANK is 0\n",
        "[rank 1] RANK is 1\n",
        "[rank 1] WORLD_SIZE is 2\n",
        "[rank 1] LOCAL_RANK is 1\n",
        "[rank 1] LOCAL_WORLD_SIZE is 2\n",
        "[rank 1] MASTER_ADDR is 127.0.0.1\n",
        "[rank 1] TORCHELASTIC_RUN_ID is\n",
        "[rank 0] CUDA_VISIBLE_DEVICES is 7\n",
        "[rank 1] CUDA_VISIBLE_DEVICES is 3\n",
        "[rank 1] OMP_NUM_THREADS is 5\n",
        "[rank 1] marked\n",
    ] {
        assert!(all.contains(line), "{line}: {all}");
    }
    assert!(told(Some("9")).contains("[rank 0] OMP_NUM_THREADS is 9\n"), "the user's stays");
}
