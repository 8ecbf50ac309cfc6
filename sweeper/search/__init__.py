"""Search algorithms, designs and objectives."""
