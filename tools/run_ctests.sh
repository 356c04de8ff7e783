#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Run every program of a folder; show the output of those that fail; print the count.
# What depends on the target, which a process chooses once, runs under each of them.
# usage: tools/run_ctests.sh FOLDER [WHAT RUNS A PROGRAM...]
# ONLY in the environment: names of programs; all of them where it is empty.
set -u
folder=$1
shift
runner=$*
passed=0 failed=0
# shellcheck disable=SC2086  # a list of words
targets=$($runner "$folder/test_cpu" | sed -n 's/^targets: //p') # that this machine has
test -n "$targets" || {
    echo "$folder/test_cpu names no target" >&2
    exit 1
}
run() { # PROGRAM [NAME=VALUE ...]
    program=$1
    shift
    # shellcheck disable=SC2086  # a list of words
    if output=$(env "$@" $runner "$program" 2>&1); then
        passed=$((passed + 1))
    else
        failed=$((failed + 1))
        printf '%s\nFAILED: %s %s\n' "$output" "$*" "$program"
    fi
}
for name in ${ONLY:-}; do
    test -x "$folder/$name" || {
        echo "$folder has no program $name" >&2
        exit 2
    }
done
for program in "$folder"/*; do
    case " ${ONLY:-${program##*/}} " in
    *" ${program##*/} "*) ;;
    *) continue ;;
    esac
    run "$program"
    case $program in
    */test_ukr | */test_vit)
        for target in $targets; do
            run "$program" VITPOOL_TARGET="$target"
        done
        run "$program" VITPOOL_UKR=blis
        ;;
    esac
done
echo "ctests: $passed passed, $failed failed"
test "$failed" = 0 && test "$passed" != 0
