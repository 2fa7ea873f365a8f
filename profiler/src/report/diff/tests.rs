use proptest::prelude::*;

use super::{text, write_json, write_page, write_svg};
use crate::{
    diff::{Asked, By, Diff, Normal, compare, made, verdict::verdict},
    profile::Profile,
};

fn recording(counts: &[i64], names: &[String]) -> Profile {
    let mut profile = made::cpu(10, &[]);
    for (number, (count, name)) in counts.iter().zip(names).enumerate() {
        made::add(&mut profile, 1 + number as u32 % 3, *count, &[name, "main"]);
    }
    profile
}

fn all_formats(diff: &Diff, sides: [&Profile; 2]) -> String {
    let told = verdict(diff);
    let text = text(diff, &told, &[], 10, 80);
    let mut out = Vec::new();
    write_json(diff, &told, &[], &mut out).unwrap();
    let json: serde_json::Value = serde_json::from_slice(&out).unwrap();
    assert_eq!(json["version"], 1);
    let mut svg = Vec::new();
    write_svg(diff, &told, sides, &mut svg).unwrap();
    assert!(svg.starts_with(b"<?xml"));
    let mut page = Vec::new();
    write_page(diff, &told, &[], diff, sides, ["before", "after"], &mut page).unwrap();
    assert!(page.starts_with(b"<!doctype html>"));
    text
}

#[test]
fn names_of_a_target_are_cut_and_clean() {
    let names = ["größe".repeat(40), "\u{1b}[31mred\u{202e}\n".to_owned()];
    let (one, two) = (recording(&[900, 100], &names), recording(&[300, 700], &names));
    let diff = compare(&[one], &[two], &Asked::default()).unwrap();
    let (one, two) = (recording(&[900, 100], &names), recording(&[300, 700], &names));
    let text = all_formats(&diff, [&one, &two]);
    assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
    assert!(!text.contains(['\u{1b}', '\u{202e}']), "{text}");
    assert!(text.contains("red"), "{text}");
}

#[test]
fn red_is_more_and_blue_is_less() {
    let names = ["f".to_owned(), "g".to_owned()];
    let sides = || [recording(&[900, 100], &names), recording(&[300, 700], &names)];
    let [one, two] = sides();
    let diff = compare(&[one], &[two], &Asked::default()).unwrap();
    let [one, two] = sides();
    let mut svg = Vec::new();
    write_svg(&diff, &verdict(&diff), [&one, &two], &mut svg).unwrap();
    let svg = String::from_utf8(svg).unwrap();
    let colour = |name: &str| {
        let frame = &svg[svg.find(&format!("<title>{name} (")).unwrap()..];
        let fill = &frame[frame.find("rgb(").unwrap() + 4..];
        let channels = fill[..fill.find(')').unwrap()].split(',');
        channels
            .map(|channel| channel.trim().parse::<i32>().unwrap())
            .collect::<Vec<_>>()
    };
    let (f, g) = (colour("f"), colour("g"));
    assert!(f[2] > f[0] && g[0] > g[2], "{f:?} {g:?}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn any_numbers_can_be_compared(
        before in proptest::collection::vec(-5_i64..1_000_000_000, 1..12),
        after in proptest::collection::vec(-5_i64..1_000_000_000, 1..12),
        recordings in 1_usize..10,
        by in 0_usize..5,
        normal in 0_usize..5,
    ) {
        let names: Vec<String> = (0..12).map(|number| format!("f{number}")).collect();
        let side = |counts: &[i64]| (0..recordings).map(|_| recording(counts, &names)).collect::<Vec<_>>();
        let asked = Asked {
            by: [By::Function, By::Line, By::File, By::Module, By::Package][by],
            normal: [
                None,
                Some(Normal::Samples),
                Some(Normal::Recording),
                Some(Normal::Level),
                Some(Normal::Per { unit: "request".to_owned(), before: 1.0, after: 3.0 }),
            ][normal].clone(),
            ..Asked::default()
        };
        if let Ok(diff) = compare(&side(&before), &side(&after), &asked) {
            let text = all_formats(&diff, [&recording(&before, &names), &recording(&after, &names)]);
            prop_assert!(text.lines().all(|line| line.chars().count() <= 80), "{}", text);
        }
    }
}
