/** The vsock port of the guest agent. It is below 1024, so in a guest only root can listen there. */
export const agentVsockPort = 1000;
