#!/usr/bin/env bash
# A real Slurm of one node for tests: one_node_slurm.sh start|env|stop FOLDER
#
#   start   write its configuration below FOLDER, start munged, slurmctld and slurmd, wait until the node is idle
#   env     print the variables that a process needs to use it, as lines NAME=VALUE
#   stop    end every job and the three daemons; FOLDER stays, with logs in FOLDER/log
#
# Works as any Unix user, listens on loopback alone, and writes nothing outside FOLDER. No systemd, no cgroups, no
# accounting database: clusters without one have no sacct either. Ports are free ones. CPUS (4) and MEMORY_MIB
# (8000) say what the node claims to have, whatever the machine has. Partitions: low (the default), soft (as low,
# but a preempted job is given 4 s) and high, whose jobs preempt those of the others, which are queued again.
# Needs, on Debian: apt-get install --no-install-recommends slurmctld slurmd slurm-client munge
set -euo pipefail

usage() { sed -n '2,6s/^# \{0,1\}//p' "$0" >&2; exit 2; }
[ $# = 2 ] || usage
folder=$(realpath -m "$2")
host=$(hostname -s)
user=$(id -un)
export PATH=$PATH:/usr/sbin:/sbin SLURM_CONF=$folder/slurm.conf

free_ports() {
  python3 - <<'PYTHON'
import socket
sockets = [socket.socket() for _ in range(2)]
for one in sockets:
    one.bind(("127.0.0.1", 0))
print(*(one.getsockname()[1] for one in sockets))
PYTHON
}

configure() {
  local controller node
  read -r controller node < <(free_ports)
  mkdir -p "$folder"/{state,spool,log,run}
  mkdir -p -m 700 "$folder/munge"
  (umask 077; head -c 1024 /dev/urandom >"$folder/munge/key")
  echo "CgroupAutomount=no" >"$folder/cgroup.conf"
  cat >"$SLURM_CONF" <<CONF
ClusterName=one
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$controller
SlurmdPort=$node
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
SlurmUser=$user
SlurmdUser=$user
AuthType=auth/munge
AuthInfo=socket=$folder/run/munge,cred_expire=5
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
SlurmctldPidFile=$folder/run/slurmctld.pid
SlurmdPidFile=$folder/run/slurmd.pid
SlurmctldLogFile=$folder/log/slurmctld.log
SlurmdLogFile=$folder/log/slurmd.log
MailProg=/bin/true
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
SchedulerParameters=sched_min_interval=100000,sched_interval=1,bf_interval=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
JobRequeue=1
KillWait=1
MinJobAge=300
ReturnToService=2
SlurmdTimeout=30
SlurmdParameters=config_overrides
NodeName=$host NodeAddr=127.0.0.1 CPUs=${CPUS:-4} RealMemory=${MEMORY_MIB:-8000}
PartitionName=low Nodes=$host Default=YES DefMemPerCPU=500 PriorityTier=1 PreemptMode=REQUEUE
PartitionName=soft Nodes=$host DefMemPerCPU=500 PriorityTier=1 PreemptMode=REQUEUE GraceTime=4
PartitionName=high Nodes=$host DefMemPerCPU=500 PriorityTier=10 PreemptMode=OFF
CONF
}

up() { sinfo --noheader --format=%T 2>/dev/null | grep -qE 'idle|mixed|allocated'; }

start() {
  local program
  for program in munged slurmctld slurmd sbatch srun squeue scancel sinfo; do
    command -v "$program" >/dev/null || { echo "one_node_slurm.sh: no $program on this machine" >&2; exit 3; }
  done
  configure
  # Forced: it wants a path that all users may enter, but only this user's programs need its socket.
  munged --force --key-file="$folder/munge/key" --socket="$folder/run/munge" --pid-file="$folder/run/munged.pid" \
    --log-file="$folder/log/munged.log" --seed-file="$folder/munge/seed" 2>>"$folder/log/start.log"
  slurmctld -c 2>>"$folder/log/start.log"
  slurmd 2>>"$folder/log/start.log"
  for _ in $(seq 200); do
    up && return
    sleep 0.1
  done
  echo "one_node_slurm.sh: the node did not come up:" >&2
  tail -n 5 "$folder"/log/*.log >&2
  stop
  exit 4
}

stop() {
  local daemon pid
  scancel --quiet --user="$user" 2>/dev/null || true
  for _ in $(seq 100); do
    [ -z "$(squeue --noheader 2>/dev/null)" ] && break
    sleep 0.1
  done
  for daemon in slurmd slurmctld munged; do # the order matters: each needs those after it to end well
    pid=$(cat "$folder/run/$daemon.pid" 2>/dev/null) || continue
    kill "$pid" 2>/dev/null || continue
    for _ in $(seq 100); do
      kill -0 "$pid" 2>/dev/null || break
      sleep 0.1
    done
    kill -KILL "$pid" 2>/dev/null || true
  done
}

case $1 in
start) start ;;
env) printf 'SLURM_CONF=%s\nPATH=%s\n' "$SLURM_CONF" "$PATH" ;;
stop) stop ;;
*) usage ;;
esac
