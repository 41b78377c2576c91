#!/bin/bash
# as WHO [COMMAND...]: a command, or a shell, as one of the people and machines of this demo. Needs root.
set -e
who=${1:?"usage: as root|ada|bo|eve|agent|impostor|laptop|crm|mallory [COMMAND...]"}
shift
host=@NAME@ group=@NAME@.slice/desk groups=--clear-groups
case $who in
  root) uid=0 group=@NAME@.slice/gate ;;
  ada) uid=61001 groups=--groups=61000 ;; # 61000 may talk to the gate's admin socket
  bo) uid=61002 groups=--groups=61000 ;;
  eve) uid=61099 ;;
  agent) uid=61010 group=@NAME@.slice/react-agent.service ;;
  impostor) uid=61010 ;; # the agent's user, outside the agent's unit
  laptop) uid=61001 host=@NAME@-far group=@NAME@-far ;;
  crm) uid=61020 host=@NAME@-far group=@NAME@-far ;;
  mallory) uid=61666 host=@NAME@-far group=@NAME@-far ;;
  *) echo "as: nobody here is called $who" >&2; exit 2 ;;
esac
[ $# -gt 0 ] || set -- bash --norc -i
echo $$ > "@CGROUP@/$group/cgroup.procs"
# Votes count by login, which sudo and su do not change. So log in, where the kernel keeps logins.
[ $uid = 0 ] || { echo $uid > /proc/self/loginuid; } 2> /dev/null || true
cd "@FOLDER@"
# /etc/hosts of these hosts, seen by this command only.
# shellcheck disable=SC2016
exec env -i PATH="@FOLDER@/bin:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin" HOME="@FOLDER@" TERM="${TERM:-dumb}" \
  LANG=C.UTF-8 PS1="$who\\$ " PYTHONDONTWRITEBYTECODE=1 \
  TIDEGATE_POLICIES="@FOLDER@/policies" TIDEGATE_STATE="@FOLDER@/state" TIDEGATE_PINS="@PINS@" \
  TIDEGATE_CGROUP="@CGROUP@/@NAME@.slice" TIDEGATE_ADMIN_SOCKET="@FOLDER@/run/admin.sock" \
  nsenter --net="/run/netns/$host" unshare --mount -- bash -c '
    mount --bind "@FOLDER@/hosts" /etc/hosts
    exec setpriv --reuid="$0" --regid="$0" "$1" -- "${@:2}"' $uid $groups "$@"
