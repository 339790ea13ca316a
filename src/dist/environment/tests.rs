//! What each launcher's variables mean, and the errors about those that do not fit.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::slurm::{first_host, tasks_of_node};
use super::variables::{LAUNCH_MARK, MASTER_ADDR, MASTER_PORT};
use super::{RankInfo, Rendezvous, rank_info};
use crate::config::ConfigError;

type Environment = BTreeMap<&'static str, String>;

fn environment(pairs: &[(&'static str, &str)]) -> Environment {
    pairs.iter().map(|(name, value)| (*name, value.to_string())).collect()
}

fn place_of(environment: &Environment) -> Result<Option<RankInfo>, ConfigError> {
    rank_info(|name| environment.get(name).cloned())
}

#[track_caller]
fn found(environment: &Environment) -> RankInfo {
    place_of(environment).unwrap().expect("a launcher")
}

/// The error is about this variable and holds all of `parts`.
#[track_caller]
fn refused(environment: &Environment, key: &str, parts: &[&str]) {
    let error = place_of(environment).expect_err("must be refused");
    assert_eq!(error.key, key, "{error}");
    for part in parts {
        assert!(error.message.contains(part), "`{part}` is not in: {error}");
    }
}

fn torchrun() -> Environment {
    environment(&[
        ("RANK", "5"),
        ("WORLD_SIZE", "8"),
        ("LOCAL_RANK", "1"),
        ("LOCAL_WORLD_SIZE", "4"),
        ("MASTER_ADDR", "node-a"),
        ("MASTER_PORT", "29400"),
        ("TORCHELASTIC_RUN_ID", "none"),
        ("TORCHELASTIC_USE_AGENT_STORE", "True"),
        ("TORCHELASTIC_RESTART_COUNT", "2"),
    ])
}

fn open_mpi() -> Environment {
    environment(&[
        ("OMPI_COMM_WORLD_RANK", "1"),
        ("OMPI_COMM_WORLD_SIZE", "2"),
        ("OMPI_COMM_WORLD_LOCAL_RANK", "1"),
        ("OMPI_COMM_WORLD_LOCAL_SIZE", "2"),
        ("OMPI_MCA_ess_base_jobid", "2014969857"),
    ])
}

fn slurm() -> Environment {
    environment(&[
        ("SLURM_JOB_ID", "1234567"),
        ("SLURM_STEP_ID", "0"),
        ("SLURM_NTASKS", "20"),
        ("SLURM_STEP_NUM_TASKS", "20"),
        ("SLURM_PROCID", "17"),
        ("SLURM_LOCALID", "1"),
        ("SLURM_NODEID", "2"),
        ("SLURM_STEP_TASKS_PER_NODE", "8(x2),4"),
        ("SLURM_STEP_NODELIST", "gpu[009-010,020]"),
    ])
}

fn with(mut environment: Environment, pairs: &[(&'static str, &str)]) -> Environment {
    environment.extend(self::environment(pairs));
    environment
}

/// Without a launcher there is none: also in a batch script, in the shell of `salloc`, and where
/// only the rendezvous was exported.
#[test]
fn what_is_no_launcher() {
    let batch = environment(&[
        ("SLURM_JOB_ID", "7"),
        ("SLURM_PROCID", "0"),
        ("SLURM_LOCALID", "0"),
        ("SLURM_NTASKS", "16"),
        ("SLURM_NODEID", "0"),
    ]);
    let rendezvous = environment(&[("MASTER_ADDR", "node-a"), ("MASTER_PORT", "1")]);
    for environment in [Environment::new(), batch, rendezvous, environment(&[("RANK", "")])] {
        assert_eq!(place_of(&environment).unwrap(), None, "{environment:?}");
    }
}

#[test]
fn torchrun_tells_everything() {
    let rank_info = found(&torchrun());
    let rendezvous =
        Rendezvous { host: "node-a".into(), port: 29400, hosted_by_launcher: true, attempt: 2 };
    let expected =
        RankInfo { rank: 5, world_size: 8, local_rank: 1, local_world_size: 4, rendezvous };
    assert_eq!(rank_info, expected);
    let own_store = with(torchrun(), &[("TORCHELASTIC_USE_AGENT_STORE", "False")]);
    assert!(!found(&own_store).rendezvous.hosted_by_launcher);
}

/// Started by hand: a world of one needs no local numbers, a larger one does.
#[test]
fn local_numbers_are_not_guessed() {
    let alone = environment(&[
        ("RANK", "0"),
        ("WORLD_SIZE", "1"),
        ("MASTER_ADDR", "localhost"),
        ("MASTER_PORT", "29500"),
    ]);
    let rank_info = found(&alone);
    assert_eq!((rank_info.local_rank, rank_info.local_world_size), (0, 1));
    let two = with(alone, &[("WORLD_SIZE", "2")]);
    refused(&two, "LOCAL_RANK", &["is missing", "RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT"]);
}

#[test]
fn each_missing_variable_is_named() {
    for name in ["RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", MASTER_ADDR, MASTER_PORT] {
        let mut environment = torchrun();
        environment.remove(name);
        let left = if name == "RANK" { "WORLD_SIZE, " } else { "RANK, " };
        refused(&environment, name, &["is missing", left]);
    }
    for name in ["OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK"] {
        let mut environment = open_mpi();
        environment.remove(name);
        refused(&environment, name, &["is missing", "mpirun", "OMPI_COMM_WORLD_LOCAL_SIZE"]);
    }
    for name in [
        "SLURM_PROCID",
        "SLURM_LOCALID",
        "SLURM_NODEID",
        "SLURM_STEP_TASKS_PER_NODE",
        "SLURM_STEP_NODELIST",
        "SLURM_JOB_ID",
        "SLURM_STEP_ID",
    ] {
        let mut environment = slurm();
        environment.remove(name);
        refused(&environment, name, &["is missing", "SLURM_STEP_NUM_TASKS", "srun"]);
    }
}

#[test]
fn numbers_must_be_numbers_and_fit() {
    let torchrun = |name, value| with(torchrun(), &[(name, value)]);
    refused(&torchrun("RANK", "-1"), "RANK", &["`-1`"]);
    refused(&torchrun("WORLD_SIZE", "eight"), "WORLD_SIZE", &["`eight`"]);
    refused(&torchrun("MASTER_PORT", "0"), "MASTER_PORT", &["`0`", "65535"]);
    refused(&torchrun("MASTER_PORT", "70000"), "MASTER_PORT", &["`70000`"]);
    refused(&torchrun("RANK", "8"), "RANK", &["`8`", "WORLD_SIZE"]);
    refused(&torchrun("LOCAL_RANK", "4"), "LOCAL_RANK", &["`4`", "LOCAL_WORLD_SIZE"]);
    refused(&torchrun("LOCAL_WORLD_SIZE", "9"), "LOCAL_WORLD_SIZE", &["`9`", "WORLD_SIZE", "`8`"]);
    refused(&with(slurm(), &[("SLURM_LOCALID", "4")]), "SLURM_LOCALID", &["`4`"]);
    for tasks in ["8(x2)", "8(x2),", "8(x2,4", "x"] {
        let environment = with(slurm(), &[("SLURM_STEP_TASKS_PER_NODE", tasks)]);
        refused(&environment, "SLURM_STEP_TASKS_PER_NODE", &[tasks, "SLURM_NODEID"]);
    }
}

#[test]
fn open_mpi_on_one_node_needs_nothing_more() {
    let rank_info = found(&open_mpi());
    assert_eq!((rank_info.rank, rank_info.world_size), (1, 2));
    assert_eq!((rank_info.local_rank, rank_info.local_world_size), (1, 2));
    assert_eq!(rank_info.rendezvous.host, "127.0.0.1");
    let other = found(&with(open_mpi(), &[("PMIX_NAMESPACE", "prterun-node-a-4711@1")]));
    assert_ne!(other.rendezvous.port, rank_info.rendezvous.port, "the namespace comes first");
    let mut nameless = open_mpi();
    nameless.remove("OMPI_MCA_ess_base_jobid");
    refused(&nameless, "MASTER_PORT", &["-x MASTER_PORT"]);
    let given = with(nameless, &[("MASTER_ADDR", "node-b"), ("MASTER_PORT", "4000")]);
    let rendezvous = found(&given).rendezvous;
    assert_eq!((rendezvous.host.as_str(), rendezvous.port), ("node-b", 4000));
}

#[test]
fn open_mpi_on_several_nodes_must_be_told_where_rank_0_is() {
    let several = with(open_mpi(), &[("OMPI_COMM_WORLD_SIZE", "4")]);
    let form = ["mpirun -x MASTER_ADDR=", "-x MASTER_PORT="];
    refused(&several, "MASTER_ADDR", &form);
    let given = with(several, &[("MASTER_ADDR", "node-b"), ("MASTER_PORT", "4000")]);
    assert_eq!(found(&given).rendezvous.host, "node-b");
}

#[test]
fn slurm_tells_everything() {
    let rank_info = found(&slurm());
    assert_eq!((rank_info.rank, rank_info.world_size), (17, 20));
    assert_eq!((rank_info.local_rank, rank_info.local_world_size), (1, 4));
    assert_eq!((rank_info.rendezvous.host.as_str(), rank_info.rendezvous.attempt), ("gpu009", 0));
    let first = with(
        slurm(),
        &[
            ("SLURM_PROCID", "0"),
            ("SLURM_LOCALID", "0"),
            ("SLURM_NODEID", "0"),
            ("SLURM_RESTART_COUNT", "3"),
        ],
    );
    let first = found(&first);
    assert_eq!(first.local_world_size, 8);
    assert_eq!(first.rendezvous.attempt, 3);
    assert_eq!(first.rendezvous.port, rank_info.rendezvous.port, "all of a step find one port");
    let next_step = found(&with(slurm(), &[("SLURM_STEP_ID", "1")]));
    assert_ne!(next_step.rendezvous.port, rank_info.rendezvous.port);
    let given = found(&with(slurm(), &[("MASTER_ADDR", "10.0.0.1"), ("MASTER_PORT", "4000")]));
    assert_eq!((given.rendezvous.host.as_str(), given.rendezvous.port), ("10.0.0.1", 4000));
}

/// torchrun and `distill launch` inside a Slurm or Open MPI job: theirs is what counts.
#[test]
fn the_innermost_launcher_counts() {
    for outer in [slurm(), open_mpi()] {
        assert_eq!(found(&with(outer.clone(), &as_pairs(&torchrun()))).rank, 5);
        let mut launched = torchrun();
        launched.retain(|name, _| !name.starts_with("TORCHELASTIC"));
        launched.insert(LAUNCH_MARK, "4711".into());
        assert_eq!(found(&with(outer, &as_pairs(&launched))).rank, 5);
    }
    assert_eq!(found(&with(slurm(), &as_pairs(&open_mpi()))).world_size, 2);
}

fn as_pairs(environment: &Environment) -> Vec<(&'static str, &str)> {
    environment.iter().map(|(name, value)| (*name, value.as_str())).collect()
}

/// torchrun's variables exported by hand into a job's processes: where they say the same they are
/// fine, otherwise every process might be rank 0.
#[test]
fn a_contradiction_names_both_variables() {
    let exported = |rank, world_size| {
        [
            ("RANK", rank),
            ("WORLD_SIZE", world_size),
            ("LOCAL_RANK", "1"),
            ("LOCAL_WORLD_SIZE", "4"),
            ("MASTER_ADDR", "node-a"),
            ("MASTER_PORT", "29500"),
        ]
    };
    assert_eq!(found(&with(slurm(), &exported("17", "20"))).rank, 17);
    let rank = with(slurm(), &exported("0", "20"));
    refused(&rank, "RANK", &["`0`", "SLURM_PROCID", "`17`", "srun"]);
    let world = with(slurm(), &exported("17", "16"));
    refused(&world, "WORLD_SIZE", &["`16`", "SLURM_STEP_NUM_TASKS", "`20`"]);
    let mpi = with(open_mpi(), &exported("0", "2"));
    refused(&mpi, "RANK", &["`0`", "OMPI_COMM_WORLD_RANK", "`1`", "mpirun"]);
}

/// Batch scripts like to export the world's size: the rank is then the launcher's.
#[test]
fn a_world_size_alone_leaves_the_rank_to_the_job() {
    assert_eq!(found(&with(slurm(), &[("WORLD_SIZE", "20")])).rank, 17);
    refused(&with(slurm(), &[("WORLD_SIZE", "8")]), "WORLD_SIZE", &["`8`", "`20`"]);
    refused(&environment(&[("WORLD_SIZE", "8")]), "RANK", &["WORLD_SIZE"]);
}

#[test]
fn first_hosts() {
    for (list, first) in [
        ("gpu[001-016,020]", "gpu001"),
        ("gpu7", "gpu7"),
        ("login,gpu[1-2]", "login"),
        ("rack[01-02]gpu[003,005-6],x", "rack01gpu003"),
        ("a-b[9]-ib0.cluster,c", "a-b9-ib0.cluster"),
    ] {
        assert_eq!(first_host(list).as_deref(), Some(first), "{list}");
    }
    for list in ["", ",a", "gpu[", "gpu[]", "gpu[a-b]", "gpu]1", "gpu[1", "[,1]"] {
        assert_eq!(first_host(list), None, "{list}");
    }
}

proptest! {
    /// Tasks of nodes as Slurm writes them, with equal neighbours folded, are read back.
    #[test]
    fn tasks_of_every_node_are_read_back(nodes in prop::collection::vec(1usize..4, 1..40)) {
        let groups: Vec<String> = nodes
            .chunk_by(|a, b| a == b)
            .map(|group| match group.len() {
                1 => group[0].to_string(),
                count => format!("{}(x{count})", group[0]),
            })
            .collect();
        let list = groups.join(",");
        for (node, tasks) in nodes.iter().enumerate() {
            prop_assert_eq!(tasks_of_node(&list, node), Some(*tasks));
        }
        prop_assert_eq!(tasks_of_node(&list, nodes.len()), None);
    }

    /// Whatever the variables hold, the answer is a place whose numbers fit together, none, or an
    /// error that names a variable: no panic.
    #[test]
    fn any_environment_has_an_answer(
        values in prop::collection::vec(("[0-9]{0,2}|[a-z0-9\\[\\](),x-]{0,8}", 0u8..3), 24)
    ) {
        const NAMES: [&str; 24] = [
            "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", MASTER_ADDR, MASTER_PORT,
            "TORCHELASTIC_RUN_ID", "TORCHELASTIC_RESTART_COUNT", LAUNCH_MARK,
            "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK",
            "OMPI_COMM_WORLD_LOCAL_SIZE", "PMIX_NAMESPACE", "OMPI_MCA_ess_base_jobid",
            "SLURM_STEP_NUM_TASKS", "SLURM_PROCID", "SLURM_LOCALID", "SLURM_STEP_TASKS_PER_NODE",
            "SLURM_NODEID", "SLURM_STEP_NODELIST", "SLURM_JOB_ID", "SLURM_STEP_ID",
            "SLURM_RESTART_COUNT",
        ];
        let environment: Environment = NAMES
            .into_iter()
            .zip(values)
            .filter(|(_, (_, kept))| *kept > 0)
            .map(|(name, (value, _))| (name, value))
            .collect();
        match place_of(&environment) {
            Ok(None) => {}
            Ok(Some(rank_info)) => {
                prop_assert!(rank_info.rank < rank_info.world_size);
                prop_assert!(rank_info.local_rank < rank_info.local_world_size);
                prop_assert!(rank_info.local_world_size <= rank_info.world_size);
                prop_assert!(!rank_info.rendezvous.host.is_empty() && rank_info.rendezvous.port > 0);
            }
            Err(error) => prop_assert!(NAMES.contains(&error.key.as_str()), "{error}"),
        }
    }
}
