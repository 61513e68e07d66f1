#!/usr/bin/env bash
# gpu.sh WHEELS [RESULTS]: numbers and times of this library on a GPU, in at most 8 minutes.
#
# For a machine with CUDA, PyTorch and NumPy, and no network. WHEELS is a folder with the wheels that
# it lacks, and may hold metatrain's. RESULTS, or else $OUT or ./gpu_results, gets all that is
# printed. With DEVICE=cpu everything is tried on small data, without a GPU.
set -uo pipefail
cd "$(dirname "$0")/.."
wheels=${1:?"usage: gpu.sh WHEELS [RESULTS]"}
results=${2:-${OUT:-gpu_results}}
device=${DEVICE:-cuda}
python=${PYTHON:-python3}
mkdir -p "$results"
site=$(mktemp -d)
trap 'rm -rf "$site"' EXIT
export PYTHONPATH="$site:$PWD" PYTHONUNBUFFERED=1 PYTHONWARNINGS=ignore
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-4}

# part NAME SECONDS COMMAND...: run one part, and go on if it fails or takes too long
part() {
  local name=$1 limit=$2 start=$SECONDS
  shift 2
  echo "== $name: $*"
  timeout -k 5 "$limit" "$@" 2>&1 | grep -v '^USDT:' | tee "$results/$name.log"
  echo "== $name: status ${PIPESTATUS[0]} after $((SECONDS - start)) s" | tee -a "$results/parts.log"
}

training=(--batches 64 8 --epochs 4) calculator=() profile=()
workers=6 tests=(tests/physics tests/targets tests/interfaces/test_ase.py)
if [ "$device" = cpu ]; then
  workers=0 tests=(tests/physics/test_derivatives.py)
  training=(--structures 24 --validation 8 --batches 8 24 --epochs 4)
  calculator=(--cells 2 3)
  profile=(--batches 2)
fi

compgen -G "$wheels/*.whl" > /dev/null && part install 40 \
  "$python" -m pip install -q --no-index --no-deps --no-compile --target "$site" "$wheels"/*.whl
# sphericart, which metatrain needs, is built for one version of CUDA, whose libraries may be wheels
for libraries in "$site"/nvidia/*/lib; do
  export LD_LIBRARY_PATH="$libraries:${LD_LIBRARY_PATH:-}"
done
part machine 60 "$python" -c '
import platform, torch
print(platform.python_version(), "torch", torch.__version__, "CUDA", torch.version.cuda)
print(torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU")
import sklearn_soapbpnn
print("sklearn_soapbpnn", sklearn_soapbpnn.__version__)'
# nothing runs beside what is timed; the first file is the shortest and says the most
# plugins and warnings of what else is installed there do not concern us
export PYTEST_DISABLE_PLUGIN_AUTOLOAD=1
pytest=(-m pytest -q -p xdist.plugin -p no:cacheprovider -W default --tb=line --maxfail=20)
pytest+=(--device "$device" -n "$workers")
part devices 90 "$python" "${pytest[@]}" -k numbers tests/test_devices.py
part physics 110 "$python" "${pytest[@]}" "${tests[@]}"
part files 60 "$python" benchmarks/gpu_files.py --device "$device"
part profile 70 "$python" benchmarks/gpu_steps.py profile --device "$device" "${profile[@]}"
part calculator 60 "$python" benchmarks/gpu_steps.py calculator --device "$device" "${calculator[@]}"
# metatrain comes last, with what is left of the 8 minutes
part training $((470 - SECONDS)) \
  "$python" benchmarks/gpu_training.py --device "$device" "${training[@]}"
cat "$results/parts.log"
