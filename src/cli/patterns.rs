//! Shards as arguments name them.

/// Stands below the help of every command that takes shards.
pub const PATTERN_HELP: &str = "Patterns are paths with `*` and `?` wildcards and brace ranges, quoted \
so that the shell leaves them alone: 'shards/train-{000000..000127}.tar', 'shards/*.tar'.";
