//! Completion scripts of shells. What clap generates offers files for pids: here a pid is a pid.
//!
//! bash gets a function of ours in front of the generated one, zsh one beside it; fish knows how to list processes.

use std::io::{self, Write};

use clap::CommandFactory as _;
use clap_complete::Shell;

use super::Cli;

/// Offers `4242  gunicorn: python /srv/app.py` where a pid belongs, also after a comma. It needs bash's own commands and
/// /proc only. Threads of the kernel have no command line, and are left out; of names, which may be any bytes, what is
/// printable is shown. Where there is one pid left, it is what is typed.
const BASH: &str = r#"
_profiler_pids() {
    local cur="$1" before="" folder pid name word line
    if [[ $cur == *,* ]]; then
        before="${cur%,*},"
        cur="${cur##*,}"
    fi
    compopt +o default +o bashdefault 2>/dev/null
    COMPREPLY=()
    for folder in /proc/[0-9]*; do
        pid="${folder#/proc/}"
        [[ $pid == "$cur"* ]] || continue
        line=""
        while IFS= read -r -d '' word; do
            line+=" $word"
            [[ ${#line} -lt 60 ]] || break
        done 2>/dev/null < "$folder/cmdline"
        [[ -n $line ]] || continue
        name=""
        IFS= read -r name 2>/dev/null < "$folder/comm"
        line="$name:${line:0:60}"
        COMPREPLY+=("$before$pid  ${line//[^[:print:]]/?}")
    done
    if [[ ${#COMPREPLY[@]} -eq 1 ]]; then
        COMPREPLY=("${COMPREPLY[0]%%  *}")
    fi
}

_profiler_or_pids() {
    local cur="$2" prev="$3"
    # --pid=42 is three words.
    if [[ $cur == "=" ]]; then
        cur=""
    elif [[ $prev == "=" ]]; then
        prev="${COMP_WORDS[COMP_CWORD-2]}"
    fi
    case "$prev" in
        -p|--pid)
            _profiler_pids "$cur"
            ;;
        -*)
            _profiler "$@"
            ;;
        *)
            if [[ $cur == [0-9]* && ${COMP_CWORD} -gt 1 && " ${COMP_WORDS[*]:0:COMP_CWORD} " != *" -- "* ]]; then
                _profiler_pids "$cur"
            else
                _profiler "$@"
            fi
            ;;
    esac
}

complete -F _profiler_or_pids -o nosort -o bashdefault -o default profiler 2>/dev/null ||
    complete -F _profiler_or_pids -o bashdefault -o default profiler
"#;

/// The same for zsh, whose own `_pids` lists the processes of one terminal only.
const ZSH: &str = r#"
_profiler_pids() {
    local -a found
    local folder line
    for folder in /proc/<->(N); do
        line="${(j: :)${(0)"$(<$folder/cmdline)"}}" 2>/dev/null
        [[ -n $line ]] || continue
        found+=("${folder:t}:$(<$folder/comm): ${${line[1,60]}//[^[:print:]]/?}") 2>/dev/null
    done
    _describe process found "$@"
}
"#;

/// Writes the completion script of `shell`.
pub fn write(shell: Shell, out: &mut dyn Write) -> io::Result<()> {
    // clap_complete panics when its writer fails, and the reader of a pipe may leave at any time.
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "profiler", &mut script);
    let script = String::from_utf8_lossy(&script);
    let script = match shell {
        Shell::Bash => format!("{script}{BASH}"),
        Shell::Zsh => {
            // Its first line says what it completes; its last ones call it.
            let mut lines = script.lines();
            let first = lines.next().unwrap_or_default();
            format!("{first}\n{ZSH}{}", lines.map(zsh).collect::<String>())
        }
        Shell::Fish => script.lines().map(fish).collect(),
        _ => script.into_owned(),
    };
    out.write_all(script.as_bytes())
}

/// `_sequence` puts commas between them.
fn zsh(line: &str) -> String {
    let line = match line.strip_suffix(":_default' \\") {
        Some(start) if start.ends_with(":PID") || start.starts_with("'*::positional_pids") => {
            format!("{start}:_sequence _profiler_pids' \\")
        }
        _ => line.to_owned(),
    };
    line + "\n"
}

fn fish(line: &str) -> String {
    let line = match line.strip_suffix(" -r") {
        Some(start) if start.contains(" -l pid ") => {
            format!("{start} -x -a '(__fish_complete_list , __fish_complete_pids)'")
        }
        _ => line.to_owned(),
    };
    line + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn script(shell: Shell) -> String {
        let mut script = Vec::new();
        write(shell, &mut script).unwrap();
        String::from_utf8(script).unwrap()
    }

    #[test]
    fn every_shell_gets_a_script_that_knows_record() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish, Shell::Elvish, Shell::PowerShell] {
            assert!(script(shell).contains("record"), "{shell}");
        }
    }

    #[test]
    fn where_a_pid_belongs_pids_are_offered() {
        // -p and --pid, for each of record, memory, calls, waits, why, top, dump, objects, exceptions, imports, gc and undo.
        let zsh = script(Shell::Zsh);
        assert_eq!(zsh.matches(":PID:_sequence _profiler_pids").count(), 24);
        assert!(!zsh.contains(":PID:_default"));
        assert_eq!(script(Shell::Fish).matches("__fish_complete_pids").count(), 12);
        assert!(script(Shell::Bash).contains("complete -F _profiler_or_pids"));
    }
}
