/** The vsock port that an agent listens on where its machine has no virtio-serial port. Only root of a guest can use it. */
export const agentVsockPort = 1000;

/** Agents from this protocol version on connect to the host when they are asked to. */
export const connectingVersion = 5;

/** The highest port that a kernel reserves for root, or a process with CAP_NET_BIND_SERVICE. */
export const lastPrivilegedPort = 1023;
