# shellcheck shell=bash
# The stages of tests/run and tests/all, and how they are counted. Sourced after tools/common.sh.
# A build or a check counts as one test; ctest and pytest report their own numbers.

logs=out/log/tests
passed=0 failed=0 skipped=0
stage_rows=()
mkdir -p "$logs"

# record NAME PASSED FAILED SKIPPED SECONDS
record() {
    passed=$((passed + $2)) failed=$((failed + $3)) skipped=$((skipped + $4))
    stage_rows+=("| $1 | $2 | $3 | $4 | $5 |")
    printf '%-34s %4d passed %4d failed %4d skipped %5d s\n' "$@"
}

# Runs COMMAND under a time limit with its output in a file whose name is left in $log; shows the
# end of it on failure. Leaves the seconds taken in $seconds.
# logged NAME LIMIT COMMAND...
logged() {
    local name=$1 limit=$2 begin=$SECONDS code=0
    shift 2
    log=$logs/${name//[^a-zA-Z0-9]/-}.log
    timeout --kill-after=10 "$limit" "$@" >"$log" 2>&1 </dev/null || code=$?
    seconds=$((SECONDS - begin))
    [ $code -eq 0 ] && return 0
    printf -- '---- %s failed (exit code %d); the end of %s:\n' "$name" $code "$log"
    tail -n 80 "$log"
    [ $code -ne 124 ] || printf -- '---- stopped after its limit of %d s\n' "$limit"
    return 1
}

# One thing that works or does not.
# step NAME LIMIT COMMAND...
step() {
    if logged "$@"; then
        record "$1" 1 0 0 "$seconds"
    else
        record "$1" 0 1 0 "$seconds"
        return 1
    fi
}

# skip NAME WHY
skip() {
    echo "$1 is skipped: $2"
    record "$1" 0 0 1 0
}

# tests NAME LIMIT BUILD CTEST-ARGUMENT...
tests() {
    local name=$1 limit=$2 build=$3 junit=$PWD/$logs/junit.xml code=0
    shift 3
    rm -f "$junit"
    logged "$name" "$limit" ctest --test-dir "$build" --output-on-failure --no-tests=error \
        --output-junit "$junit" -j "$(cores)" "$@" || code=1
    record_junit "$name" $code
}

# record_junit NAME CODE: what $junit counts. Whatever made the command fail counts also where it was
# not counted itself.
record_junit() {
    local name=$1 all bad out
    if [ ! -s "$junit" ]; then
        record "$name" 0 1 0 "$seconds"
        return
    fi
    all=$(junit_count tests) bad=$(($(junit_count failures) + $(junit_count errors)))
    out=$(($(junit_count skipped) + $(junit_count disabled)))
    if [ "$2" -ne 0 ] && [ "$bad" -eq 0 ]; then bad=1 all=$((all + 1)); fi
    record "$name" $((all - bad - out)) "$bad" "$out" "$seconds"
}

# junit_count ATTRIBUTE: of the test suite in $junit; 0 where it has none
junit_count() {
    local number
    number=$(grep -om1 "\b$1=\"[0-9]*\"" "$junit" | tr -dc 0-9)
    echo "${number:-0}"
}

# Test classes are dealt to as many processes as there are cores: much of the time is MPI starting up.
# python_tests NAME LIMIT FOLDER
python_tests() {
    local name=$1 junit=$PWD/$logs/junit.xml code=0
    rm -f "$junit"
    logged "$name" "$2" .venv/bin/python -m pytest -v -p no:cacheprovider --numprocesses "$(cores)" \
        --dist loadscope --durations 40 --junitxml "$junit" "$3" || code=1
    record_junit "$name" $code
}

# Outputs held against readers that other people wrote. Skipped where those cannot be installed.
# readers NAME LIMIT WHAT...      WHAT: of tests/readers/run.sh
readers() {
    local name=$1 limit=$2 setup=$logs/readers-setup.log which=python environment code
    shift 2
    [ "$*" != gguf ] || which='python llama'
    for environment in $which; do
        code=0
        timeout --kill-after=10 480 bash tests/readers/install.sh "$environment" >"$setup" 2>&1 \
            </dev/null || code=$?
        [ $code -ne 124 ] || echo 'installing them took more than 480 s' >>"$setup"
        if [ $code -ne 0 ]; then
            skip "$name" "$(tail -n 1 "$setup")"
            return
        fi
    done
    step "$name" "$limit" bash tests/readers/run.sh build/mpiquant "$@"
}

# The tensor of 256000 x 12288 in full; skipped where the temporary folder has no room for it.
# large_tensor NAME LIMIT GB TYPE RANKS...
large_tensor() {
    local name=$1 limit=$2 gb=$3 folder=${TMPDIR:-/tmp} free
    shift 3
    free=$(df --output=avail -B 1000000000 "$folder" | tail -n 1)
    if [ "$free" -lt "$gb" ]; then
        skip "$name" "it needs $gb GB in $folder, where $((free)) are free"
        return
    fi
    step "$name" "$limit" bash tests/large/run.sh build "$@"
}

check_format() {
    find src include tests -name '*.[ch]' -print0 | sort -z | xargs -0 clang-format --dry-run -Werror
}

check_shell() {
    {
        printf '%s\0' tools/common.sh tests/stages.sh
        grep -rlZE '^#!.*\b(ba)?sh$' .ci tools tests jobs
    } | xargs -0 shellcheck -x
}

# configure_and_build FOLDER CMAKE-ARGUMENT...
configure_and_build() {
    local folder=$1
    shift
    cmake -B "$folder" -G Ninja -DMQ_BUILD_TESTS=ON -DMQ_WERROR=ON "$@" &&
        cmake --build "$folder" -- -k 0
}

# Everything that a change must pass. About two thirds of it is compiling.
short_stages() {
    export -f check_format check_shell configure_and_build
    step 'set-up' 1500 tools/setup --tests || return
    find_mpirun
    case $(clang-format --version) in
    *' version 14.'*) step 'clang-format' 60 bash -c check_format ;;
    *) skip 'clang-format' 'the sources are laid out by version 14, others differ' ;;
    esac
    step 'shellcheck' 60 bash -c check_shell
    if step 'build with gcc' 400 env CC=gcc bash -c 'configure_and_build build \
        -DCMAKE_BUILD_TYPE=Release -DMQ_BUILD_BENCH=ON'; then
        tests 'tests, gcc' 700 build --timeout 300
        MPIQUANT=$PWD/build/mpiquant python_tests 'end-to-end tests' 1500 tests/e2e
        readers 'readers of the formats' 900 4:128 4:64:compressed-tensors
    fi
    if step 'build with clang' 400 env CC=clang bash -c 'configure_and_build build-clang \
        -DCMAKE_BUILD_TYPE=Release'; then
        tests 'unit tests, clang' 200 build-clang --tests-regex '^unit\.'
    fi
    if step 'build with ASan and UBSan' 400 env CC=gcc bash -c 'configure_and_build build-asan \
        -DCMAKE_BUILD_TYPE=Debug -DMQ_SANITIZE=address,undefined'; then
        tests 'unit tests, ASan and UBSan' 300 build-asan --tests-regex '^unit\.'
    fi
    if step 'build of the fuzz targets' 400 env CC=clang bash -c 'configure_and_build build-fuzz \
        -DCMAKE_BUILD_TYPE=Debug -DMQ_FUZZ=ON -DMQ_BUILD_TESTS=OFF \
        -DMQ_SANITIZE=fuzzer-no-link,address,undefined'; then
        step 'fuzzing, 15 s a target' 300 bash tests/fuzz/run.sh build-fuzz 15
    fi
    python_tests 'Python tests' 200 tests/unit
}

# The last line of every run.
summary() {
    printf '\n%d s in all; the output of every stage is in %s\n' "$SECONDS" "$logs"
    printf '%d passed, %d failed, %d skipped\n' "$passed" "$failed" "$skipped"
    [ "$failed" -eq 0 ]
}
