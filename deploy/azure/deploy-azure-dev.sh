#!/usr/bin/env bash
# One host on Azure with the az command line: the short path of 'osb azure', for people who have az and no Node.
set -euo pipefail

usage() {
  cat <<END
usage: $0 create|deploy|ssh|status|destroy

  create     make the host, copy this checkout there and set it up; continues after an interruption
  deploy     copy this checkout to the host and set it up again
  ssh        open a shell on the host, or run the command that follows
  status     show machine and service
  destroy    delete the host with its data, after a question

Variables, with their defaults:
  NAME=opensandbox-dev       resource group, and prefix of all names in it
  LOCATION=eastus            region
  SIZE=Standard_D48as_v6     size, of a family with nested virtualization
  DATA_DISK_GB=500           data disk
  ADMIN_USER=osb             administrator
  SSH_KEY=~/.ssh/id_ed25519.pub
  SSH_FROM=                  address or range that may use ssh; required by create
END
}

name=${NAME:-opensandbox-dev}
location=${LOCATION:-eastus}
size=${SIZE:-Standard_D48as_v6}
data_disk_gb=${DATA_DISK_GB:-500}
admin=${ADMIN_USER:-osb}
ssh_key=${SSH_KEY:-$HOME/.ssh/id_ed25519.pub}
# Everything that this script makes carries this tag, and nothing without it is deleted.
tag=opensandbox=$name
root=$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/../..
ssh_options=(-o StrictHostKeyChecking=accept-new -o ServerAliveInterval=15)

main() {
  case ${1-} in
    create) create ;;
    deploy) deploy ;;
    ssh) remote "${@:2}" ;;
    status) status ;;
    destroy) destroy ;;
    -h | --help | help) usage ;;
    *)
      usage >&2
      exit 2
      ;;
  esac
}

create() {
  [[ -n ${SSH_FROM-} ]] || fail "set SSH_FROM to the address that may use ssh, for example SSH_FROM=\$(curl -s https://api.ipify.org)"
  [[ -r $ssh_key ]] || fail "there is no public key $ssh_key: make one with 'ssh-keygen -t ed25519', or set SSH_KEY"
  if [[ $(az group exists --name "$name") == true ]]; then
    require_ours
  else
    say "creating the resource group $name"
    az group create --name "$name" --location "$location" --tags "$tag" --output none
  fi
  say "creating the network"
  az network nsg create --resource-group "$name" --name "$name-nsg" --tags "$tag" --output none
  allow ssh 1000 22 "$SSH_FROM"
  allow https 1010 443 Internet
  az network vnet create --resource-group "$name" --name "$name-vnet" --address-prefixes 10.100.0.0/16 \
    --subnet-name hosts --subnet-prefixes 10.100.1.0/24 --network-security-group "$name-nsg" --tags "$tag" --output none
  az network public-ip create --resource-group "$name" --name "$name-ip" --sku Standard --allocation-method Static \
    --version IPv4 --tags "$tag" --output none
  if [[ -z $(machine_ids) ]]; then
    say "creating the virtual machine ($size)"
    # Trusted Launch, the default of az, has no nested virtualization.
    az vm create --resource-group "$name" --name "$name-vm" --image Canonical:ubuntu-24_04-lts:server:latest \
      --size "$size" --security-type Standard --admin-username "$admin" --ssh-key-values "$ssh_key" \
      --vnet-name "$name-vnet" --subnet hosts --nsg "" --public-ip-address "$name-ip" \
      --os-disk-size-gb 100 --os-disk-delete-option Delete --storage-sku Premium_LRS \
      --data-disk-sizes-gb "$data_disk_gb" --data-disk-delete-option Delete --nic-delete-option Delete \
      --assign-identity '[system]' --tags "$tag" --output none
  fi
  deploy
  say "running the first sandbox, which builds the image"
  remote "sudo osb run -- uname -a"
  say "ready. A tunnel to the server: ssh -N -L 8080:127.0.0.1:8080 $admin@$(address)"
  say "then: curl -s localhost:8080/api/sandboxes -H \"X-API-Key: $(remote 'sudo cat /var/lib/opensandbox/api-key')\""
}

allow() {
  az network nsg rule create --resource-group "$name" --nsg-name "$name-nsg" --name "$1" --priority "$2" \
    --direction Inbound --access Allow --protocol Tcp --source-address-prefixes "$4" --destination-port-ranges "$3" \
    --output none
}

deploy() {
  local archive=/var/tmp/opensandbox.tar.gz script=/var/tmp/setup-azure-host.sh
  say "waiting for the host to boot"
  local deadline=$((SECONDS + 600))
  # cloud-init exits with 2 after an error that it recovered from.
  until remote -o BatchMode=yes "cloud-init status --wait >/dev/null || [ \$? -eq 2 ]"; do
    ((SECONDS < deadline)) || fail "$(address) did not accept ssh and finish its first boot within 10 minutes"
    sleep 5
  done
  say "copying this checkout and setting the host up"
  tar -czf - --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner --exclude=node_modules --exclude=./.git \
    -C "$root" . |
    remote "sudo sh -c 'cat > $archive && tar -xzOf $archive ./deploy/azure/setup-azure-host.sh > $script && sh $script $archive'"
}

remote() {
  local options=()
  while [[ ${1-} == -o ]]; do
    options+=("$1" "$2")
    shift 2
  done
  # shellcheck disable=SC2029 # the words are the remote command line
  ssh "${ssh_options[@]}" "${options[@]}" "$admin@$(address)" "$@"
}

status() {
  az vm show --resource-group "$name" --name "$name-vm" --show-details \
    --query '{name: name, size: hardwareProfile.vmSize, power: powerState, address: publicIps}' --output table
  echo "service: $(remote -o BatchMode=yes 'systemctl is-active opensandbox' || true)"
}

destroy() {
  if [[ $(az group exists --name "$name") != true ]]; then
    say "there is no resource group $name"
    return
  fi
  require_ours
  az resource list --resource-group "$name" --query "[?tags.opensandbox=='$name'].id" --output tsv
  read -rp "delete these resources with all data? Type $name: " answer
  [[ $answer == "$name" ]] || fail "deleted nothing"
  # With the machine go its disks and its network interface.
  local id
  for id in $(machine_ids); do az vm delete --ids "$id" --yes --output none; done
  for id in $(tagged Microsoft.Network/publicIPAddresses); do az network public-ip delete --ids "$id" --output none; done
  for id in $(tagged Microsoft.Network/virtualNetworks); do az network vnet delete --ids "$id" --output none; done
  for id in $(tagged Microsoft.Network/networkSecurityGroups); do az network nsg delete --ids "$id" --output none; done
  local left
  left=$(az resource list --resource-group "$name" --query '[].id' --output tsv)
  if [[ -n $left ]]; then
    say "kept the resource group, which has resources without the tag:"
    echo "$left"
  else
    az group delete --name "$name" --yes --output none
    say "deleted $name"
  fi
}

machine_ids() {
  tagged Microsoft.Compute/virtualMachines
}

# az takes no --tag beside --resource-group.
tagged() {
  az resource list --resource-group "$name" --resource-type "$1" --query "[?tags.opensandbox=='$name'].id" --output tsv
}

require_ours() {
  [[ $(az group show --name "$name" --query tags.opensandbox --output tsv) == "$name" ]] ||
    fail "the resource group $name exists without the tag $tag, so it is not this script's. Set another NAME"
}

address() {
  az network public-ip show --resource-group "$name" --name "$name-ip" --query ipAddress --output tsv
}

say() {
  printf 'opensandbox: %s\n' "$*" >&2
}

fail() {
  say "$*"
  exit 1
}

main "$@"
