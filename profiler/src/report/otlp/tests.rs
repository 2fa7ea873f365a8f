//! The rules of `profcheck` (open-telemetry/sig-profiling), as an oracle: indices in range, entry 0 empty, nothing twice,
//! nothing that nobody refers to, samples of one shape.

use std::collections::{BTreeSet, HashSet};

use super::*;

fn check(data: &proto::ProfilesData) {
    let dictionary = data.dictionary.as_ref().unwrap();
    let proto::Dictionary {
        mapping_table,
        location_table,
        function_table,
        link_table,
        string_table,
        attribute_table,
        stack_table,
    } = dictionary;
    assert_eq!(mapping_table[0], proto::Mapping::default());
    assert_eq!(location_table[0], proto::Location::default());
    assert_eq!(function_table[0], proto::Function::default());
    assert_eq!(link_table[0], proto::Link::default());
    assert_eq!(string_table[0], "");
    assert_eq!(attribute_table[0], proto::Attribute::default());
    assert_eq!(stack_table[0], proto::Stack::default());
    fn once<T: Eq + Hash>(table: &[T]) {
        assert_eq!(table.iter().collect::<HashSet<_>>().len(), table.len());
    }
    once(mapping_table);
    once(location_table);
    once(function_table);
    once(string_table);
    once(attribute_table);
    once(stack_table);

    // Whatever is referred to.
    let (mut strings, mut attributes, mut mappings, mut functions, mut locations, mut stacks) = (
        BTreeSet::from([0]),
        BTreeSet::from([0]),
        BTreeSet::from([0]),
        BTreeSet::from([0]),
        BTreeSet::from([0]),
        BTreeSet::from([0]),
    );
    for mapping in mapping_table {
        assert!(mapping.memory_start < mapping.memory_limit || (mapping.memory_start, mapping.memory_limit) == (0, 0));
        strings.insert(mapping.filename_strindex);
        attributes.extend(&mapping.attribute_indices);
    }
    for location in location_table {
        mappings.insert(location.mapping_index);
        attributes.extend(&location.attribute_indices);
        functions.extend(location.lines.iter().map(|line| line.function_index));
    }
    for function in function_table {
        strings.extend([function.name_strindex, function.filename_strindex]);
    }
    for attribute in &attribute_table[1..] {
        assert_ne!(attribute.key_strindex, 0);
        assert!(attribute.value.is_some());
        strings.insert(attribute.key_strindex);
    }
    for stack in stack_table {
        assert!(!stack.location_indices.contains(&0));
        locations.extend(&stack.location_indices);
    }
    let mut ids = HashSet::new();
    for resource in &data.resource_profiles {
        assert!(resource.resource.is_some());
        for profile in resource.scope_profiles.iter().flat_map(|scope| &scope.profiles) {
            assert_eq!(profile.profile_id.len(), 16);
            assert!(ids.insert(profile.profile_id.clone()));
            let value = profile.sample_type.unwrap();
            assert_ne!(value.type_strindex, 0);
            for value in profile.sample_type.iter().chain(&profile.period_type) {
                strings.extend([value.type_strindex, value.unit_strindex]);
            }
            let mut identities = HashSet::new();
            for sample in &profile.samples {
                match &sample.timestamps_unix_nano[..] {
                    [] => assert_eq!(sample.values.len(), 1),
                    times => {
                        assert_eq!(times.len(), sample.values.len());
                        let end = profile.time_unix_nano + profile.duration_nano;
                        assert!(times.is_sorted() && times.iter().all(|at| (profile.time_unix_nano..end).contains(at)));
                    }
                }
                assert_eq!(sample.link_index, 0);
                assert!(identities.insert((sample.stack_index, &sample.attribute_indices)));
                let keys: HashSet<i32> = (sample.attribute_indices.iter())
                    .map(|at| attribute_table[*at as usize].key_strindex)
                    .collect();
                assert_eq!(keys.len(), sample.attribute_indices.len());
                stacks.insert(sample.stack_index);
                attributes.extend(&sample.attribute_indices);
            }
        }
    }
    let all = |length: usize| (0..length as i32).collect::<BTreeSet<i32>>();
    assert_eq!(strings, all(string_table.len()));
    assert_eq!(attributes, all(attribute_table.len()));
    assert_eq!(mappings, all(mapping_table.len()));
    assert_eq!(functions, all(function_table.len()));
    assert_eq!(locations, all(location_table.len()));
    assert_eq!(stacks, all(stack_table.len()));
}

#[test]
fn a_file_passes_the_checks_of_profcheck_and_keeps_the_sums() {
    let profile = crate::report::tests::mixed();
    let mut bytes = Vec::new();
    Otlp.write(&profile, &View::default(), &mut bytes).unwrap();
    let data = proto::ProfilesData::decode(&*bytes).unwrap();
    check(&data);
    let strings = &data.dictionary.as_ref().unwrap().string_table;
    for (at, value) in profile.sample_types.iter().enumerate() {
        let sum: i64 = (data.resource_profiles.iter())
            .flat_map(|resource| &resource.scope_profiles[0].profiles)
            .filter(|profile| strings[profile.sample_type.unwrap().type_strindex as usize] == value.kind)
            .flat_map(|profile| &profile.samples)
            .flat_map(|sample| &sample.values)
            .sum();
        assert_eq!(sum, profile.total(at), "{value:?}");
    }
}

#[test]
fn values_are_at_the_times_at_which_they_were_counted() {
    let mut profile = Profile::new(crate::report::tests::mixed().sample_types.clone(), None);
    let mixed = crate::report::tests::mixed();
    profile.started_at_ns = 1_000;
    profile.duration_ns = 1_000;
    profile.begin_timeline(100);
    let ours = profile.translated(&mixed);
    for ((key, values), number) in mixed.samples().zip(0_u32..) {
        // Of the last sample it is not known when.
        let times = if number as usize + 1 < mixed.samples().len() {
            vec![(number % 7, 1_u32), (9, 1)]
        } else {
            Vec::new()
        };
        profile.add_in(ours.key(key), values, &times);
    }
    let data = data(&profile, |_| Vec::new(), |_| None).unwrap();
    check(&data);
    let samples = |data: &proto::ProfilesData| -> Vec<proto::Sample> {
        (data.resource_profiles.iter())
            .flat_map(|resource| resource.scope_profiles[0].profiles.clone())
            .flat_map(|profile| profile.samples)
            .collect()
    };
    let all: i64 = samples(&data).iter().flat_map(|sample| &sample.values).sum();
    assert_eq!(
        all,
        (0..profile.sample_types.len()).map(|at| profile.total(at)).sum::<i64>()
    );
    assert!(
        samples(&data)
            .iter()
            .any(|sample| sample.timestamps_unix_nano.contains(&1_900))
    );
    assert!(
        samples(&data)
            .iter()
            .any(|sample| sample.timestamps_unix_nano.is_empty())
    );
    // Without a day there are no times.
    profile.started_at_ns = 0;
    let undated = super::data(&profile, |_| Vec::new(), |_| None).unwrap();
    assert!(
        samples(&undated)
            .iter()
            .all(|sample| sample.timestamps_unix_nano.is_empty())
    );
}

#[test]
fn an_empty_profile_is_an_empty_file_of_the_kind() {
    check(&data(&Profile::new(Vec::new(), None), |_| Vec::new(), |_| None).unwrap());
}
