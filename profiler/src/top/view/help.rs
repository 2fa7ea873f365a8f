//! What keys do and what columns mean.

use super::paper::{Ink, Paper};

const TEXT: [&str; 23] = [
    "profiler top: keys                                     (any key goes back)",
    "  up down PgUp PgDn j k   choose a row      Enter  its threads, lines, flame",
    "  t  threads   f  lines and functions   l  flame graph   Esc  back   q  quit",
    "  < >  sort by the column before or after   R  reverse   Tab  other columns",
    "  P CPU   M memory   G growth   L GIL   N pid     g  workers of a service: one",
    "  /  filter by service, user, pid or line      space  pause      r  reset",
    "  in lines: 1 own  2 total  3 waiting  4 own since r  o own/total  L  functions",
    "  there and in the flame graph: n  native frames   w  waits as well as CPU time",
    "",
    "columns",
    "  CPU%     of one CPU, since the last refresh; exact",
    "  py% nat% ker%  of that in the interpreter, other machine code, the kernel:",
    "           by samples of the last 10 s; ~ may be off by more than 5",
    "  GC%      in the garbage collector, where the interpreter has names",
    "  GIL%     of the time somebody had the GIL (~: off by more than 12)",
    "  wait%    waiting for the GIL, all threads together: 200 is two all the time",
    "  TIME     of all threads: # on a CPU, z sleep, p poll, s socket, l lock, g GIL,",
    "           d disk f file i pipe c child m page r for a CPU q quota t stop o any",
    "  +/min    growth of RSS in the last minute; THR FDS threads, descriptors",
    "  SW/s     times a second that a thread left a CPU",
    "  LINE NOW the line of its own with most CPU time in the last 10 s; if it hardly",
    "           computes, where it waits and for what",
    "  -        not known, or not yet",
];

pub fn draw(paper: &mut Paper<'_>) {
    for (y, text) in (0..).zip(TEXT) {
        let is_title = y == 0 || text == "columns";
        paper.line(y, text, if is_title { Ink::Bold } else { Ink::Plain });
    }
}
